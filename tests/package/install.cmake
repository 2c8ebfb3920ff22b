# SPDX-License-Identifier: Apache-2.0
# Installs BUILD under STAGE and moves the result to PREFIX.
file(REMOVE_RECURSE ${STAGE} ${PREFIX})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${STAGE}
  COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${STAGE} ${PREFIX})

file(GLOB_RECURSE files ${PREFIX}/*)
foreach(file IN LISTS files)
  file(STRINGS ${file} lines)
  foreach(path ${BUILD} ${STAGE})
    string(FIND "${lines}" "${path}" position)
    if(NOT position EQUAL -1)
      message(SEND_ERROR "${file} names ${path}")
    endif()
  endforeach()
endforeach()
