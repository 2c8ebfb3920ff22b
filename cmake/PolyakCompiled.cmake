# SPDX-License-Identifier: Apache-2.0
# The optional compiled library: makes the target polyak::compiled, which holds the functions of
# files and the loops of usual methods, so that programs do not compile them. It has what polyak::io
# has where that is found.
add_library(polyak_compiled STATIC
  ${CMAKE_CURRENT_LIST_DIR}/compiled/core.cpp
  ${CMAKE_CURRENT_LIST_DIR}/compiled/loops_16_bit.cpp
  ${CMAKE_CURRENT_LIST_DIR}/compiled/loops_float.cpp)
add_library(polyak::compiled ALIAS polyak_compiled)
set_target_properties(polyak_compiled PROPERTIES
  EXPORT_NAME compiled
  OUTPUT_NAME polyak
  POSITION_INDEPENDENT_CODE ON)
target_compile_definitions(polyak_compiled PUBLIC POLYAK_COMPILED=1)
target_link_libraries(polyak_compiled PUBLIC polyak)
if(TARGET polyak::io)
  target_sources(polyak_compiled PRIVATE ${CMAKE_CURRENT_LIST_DIR}/compiled/files.cpp)
  # Imported by each project that uses an installed library: polyakConfig.cmake links it there.
  target_link_libraries(polyak_compiled PUBLIC $<BUILD_INTERFACE:polyak::io>)
endif()
