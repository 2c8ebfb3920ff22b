# SPDX-License-Identifier: Apache-2.0
# With the compiled library, a user's object files define neither its loops nor its functions; the
# program has them all the same.
function(defined result)
  execute_process(COMMAND ${NM} -C ${ARGN} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "," symbols "${symbols}")
  string(REPLACE "\n" ";" symbols "${symbols}")
  list(FILTER symbols INCLUDE REGEX "^[0-9a-fA-F]+ [TtWwV] ")
  set(${result} "${symbols}" PARENT_SCOPE)
endfunction()

# The fused loop of SGD and two averages, which use_files.cpp steps; a function of files; JSON.
set(names "sweep_together<float, .*SgdLaw.*AverageLaw.*AverageLaw" "detail::save_record\\(" "nlohmann")
defined(own ${OBJECTS})
defined(all ${PROGRAM})
foreach(name IN LISTS names)
  set(found ${own})
  list(FILTER found INCLUDE REGEX "${name}")
  if(found)
    message(SEND_ERROR "a user's object file defines ${name}: ${found}")
  endif()
  set(found ${all})
  list(FILTER found INCLUDE REGEX "${name}")
  if(NOT found)
    message(SEND_ERROR "the program lacks ${name}")
  endif()
endforeach()
