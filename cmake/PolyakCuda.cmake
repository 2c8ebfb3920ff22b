# SPDX-License-Identifier: Apache-2.0
# The component cuda: makes the target polyak::cuda where the CUDA Toolkit is found. Part of the
# source tree's CMakeLists.txt and of the installed package alike.
if(NOT TARGET polyak::cuda)
  find_package(CUDAToolkit QUIET)
  if(TARGET CUDA::cudart_static)
    add_library(polyak::cuda INTERFACE IMPORTED GLOBAL)
    target_link_libraries(polyak::cuda INTERFACE polyak::polyak CUDA::cudart_static)
  endif()
endif()
