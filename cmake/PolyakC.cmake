# SPDX-License-Identifier: Apache-2.0
# The component c: makes the target polyak::c, the functions of <polyak/interop/c.h>, where files
# can be read and written. A program that links it needs the C++ library, and no C++ of its own. It
# is compiled when something links it. Part of the source tree's CMakeLists.txt and of the installed
# package alike; polyak_include_dir is the folder of the headers.
if(TARGET polyak::io AND NOT TARGET polyak::c)
  add_library(polyak_c STATIC EXCLUDE_FROM_ALL ${polyak_include_dir}/polyak/interop/c.cpp)
  add_library(polyak::c ALIAS polyak_c)
  set_target_properties(polyak_c PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(polyak_c PUBLIC ${polyak_include_dir})
  if(TARGET polyak::compiled)
    target_link_libraries(polyak_c PRIVATE polyak::compiled)
  else()
    target_link_libraries(polyak_c PRIVATE polyak::io)
  endif()
endif()
