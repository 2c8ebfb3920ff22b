# SPDX-License-Identifier: Apache-2.0
# Compiles SOURCE into PROGRAM with the flags that pkg-config gives for polyak under PREFIX.
file(GLOB_RECURSE file ${PREFIX}/*/polyak.pc)
cmake_path(GET file PARENT_PATH folder)
cmake_path(CONVERT "$ENV{PKG_CONFIG_PATH}" TO_CMAKE_PATH_LIST folders)
cmake_path(CONVERT "${folder};${folders}" TO_NATIVE_PATH_LIST folders)
set(ENV{PKG_CONFIG_PATH} "${folders}")

execute_process(COMMAND ${PKG_CONFIG} --modversion polyak
  OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT version STREQUAL VERSION)
  message(FATAL_ERROR "polyak.pc says ${version}, the library is ${VERSION}")
endif()
execute_process(COMMAND ${PKG_CONFIG} --cflags polyak
  OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
message("flags: ${flags}")
separate_arguments(flags UNIX_COMMAND "${flags}")
execute_process(COMMAND ${COMPILER} -std=c++20 ${flags} ${SOURCE} -o ${PROGRAM}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${PROGRAM} COMMAND_ERROR_IS_FATAL ANY)
