# SPDX-License-Identifier: Apache-2.0
# Configures the project in SOURCE with the arguments after `--`, builds it under BUILD, runs its
# program, and installs it: polyak is not the project's to install.
set(arguments "")
set(is_argument FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(index RANGE ${last})
  if(is_argument)
    list(APPEND arguments "${CMAKE_ARGV${index}}")
  elseif(CMAKE_ARGV${index} STREQUAL "--")
    set(is_argument TRUE)
  endif()
endforeach()

file(REMOVE_RECURSE ${BUILD})
execute_process(COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD} -G ${GENERATOR} ${arguments}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${BUILD}/consumer COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${BUILD}/installed
  COMMAND_ERROR_IS_FATAL ANY)
if(EXISTS ${BUILD}/installed)
  message(FATAL_ERROR "installing the consumer installed polyak")
endif()
