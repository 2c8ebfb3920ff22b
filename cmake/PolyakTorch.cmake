# SPDX-License-Identifier: Apache-2.0
# The component torch: makes the target polyak::torch where LibTorch is found. Part of the source
# tree's CMakeLists.txt and of the installed package alike. LibTorch's own targets belong to the
# folder that finds them, so a project above this one finds Torch itself.
if(NOT TARGET polyak::torch)
  if(NOT TARGET torch)
    find_package(Torch CONFIG QUIET)
  endif()
  if(TARGET torch)
    add_library(polyak::torch INTERFACE IMPORTED GLOBAL)
    target_link_libraries(polyak::torch INTERFACE polyak::polyak ${TORCH_LIBRARIES})
    target_include_directories(polyak::torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  endif()
endif()
