# SPDX-License-Identifier: Apache-2.0
# Configures polyak itself and a consumer of the package installed under PREFIX against Eigen
# packages that consist of nothing but a version, and checks which ones are refused.

# Runs cmake with the arguments and sets `refused` to whether it ended with our message.
function(configure)
  execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -D CMAKE_CXX_COMPILER=${COMPILER} ${ARGN}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " words "${output}")
  if(result EQUAL 0)
    set(refused FALSE PARENT_SCOPE)
  elseif(words MATCHES "polyak needs Eigen 3\\.4 or later")
    set(refused TRUE PARENT_SCOPE)
  else()
    message(FATAL_ERROR "cmake ${ARGN}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
foreach(version 3.3.9 3.4.0 3.4.1 5.0.1)
  set(eigen ${WORK}/${version}/eigen)
  # As Eigen's own version file: no other major version than the one that is asked for.
  file(WRITE ${eigen}/Eigen3ConfigVersion.cmake "
    set(PACKAGE_VERSION ${version})
    string(REGEX MATCH \"^[0-9]+\" major ${version})
    if(NOT PACKAGE_FIND_VERSION OR PACKAGE_FIND_VERSION_MAJOR EQUAL major)
      set(PACKAGE_VERSION_COMPATIBLE TRUE)
    endif()\n")
  file(WRITE ${eigen}/Eigen3Config.cmake "add_library(Eigen3::Eigen INTERFACE IMPORTED)\n")

  set(expected FALSE)
  if(version VERSION_LESS 3.4)
    set(expected TRUE)
  endif()
  configure(-S ${SOURCE} -B ${WORK}/${version}/polyak -D Eigen3_DIR=${eigen}
    -D POLYAK_BUILD_TESTS=OFF -D POLYAK_BUILD_BENCH=OFF -D POLYAK_BUILD_EXAMPLES=OFF)
  if(NOT refused STREQUAL expected)
    message(SEND_ERROR "Eigen ${version}: refused by the source tree is ${refused}")
  endif()
  configure(-S ${CONSUMER} -B ${WORK}/${version}/consumer -D Eigen3_DIR=${eigen}
    -D CMAKE_PREFIX_PATH=${PREFIX} -D POLYAK_VERSION=${VERSION})
  if(NOT refused STREQUAL expected)
    message(SEND_ERROR "Eigen ${version}: refused by the installed package is ${refused}")
  endif()
endforeach()
