# SPDX-License-Identifier: Apache-2.0
# What our own programs (tests, benchmarks, examples) share. Consumers never include this file.

# As most users expect; the presets say what they want.
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

# Gives one of our programs its warnings and, where asked for, this machine's instructions.
function(polyak_program_options target)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 $<$<BOOL:${POLYAK_WERROR}>:/WX>)
  else()
    target_compile_options(${target} PRIVATE
      -Wall -Wextra -Wpedantic -Wconversion -Wshadow
      $<$<BOOL:${POLYAK_WERROR}>:-Werror>
      $<$<BOOL:${POLYAK_NATIVE}>:-march=native>)
    if(POLYAK_NATIVE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND
       CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      # Its AVX-512 headers, which Eigen's own loops use, pass undefined vectors on purpose.
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
  endif()
endfunction()

# The same for a program that nvcc compiles: for two processors, and for later ones as PTX.
set(POLYAK_CUDA_ARCHITECTURES 80-real 90-real 90-virtual CACHE STRING
  "What nvcc compiles our own programs for, as CMAKE_CUDA_ARCHITECTURES says it")
mark_as_advanced(POLYAK_CUDA_ARCHITECTURES)
function(polyak_cuda_program_options target)
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${POLYAK_CUDA_ARCHITECTURES}")
  target_link_libraries(${target} PRIVATE polyak::cuda)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>"  # CMake does not know it of every nvcc
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -Wall,-Wextra>"
    "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${POLYAK_WERROR}>>:SHELL:-Werror all-warnings>")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # Which warns about its own strings.
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -Wno-restrict>")
  endif()
endfunction()

# Finds what only our programs use; each of them is optional. A preset that cannot do without one
# sets CMAKE_REQUIRE_FIND_PACKAGE_<name>.
macro(polyak_find_optional_dependencies)
  if(POLYAK_BUILD_TESTS)
    find_package(Catch2 CONFIG)
    find_package(PkgConfig)
    find_package(OpenMP COMPONENTS CXX)
    find_package(Threads REQUIRED)
  endif()
  if(POLYAK_BUILD_BENCH)
    find_package(benchmark CONFIG)
    find_package(OpenMP COMPONENTS CXX)
    find_package(Torch CONFIG QUIET)
  endif()
  if(POLYAK_BUILD_EXAMPLES)  # one is in C
    include(CheckLanguage)
    check_language(C)
    if(CMAKE_C_COMPILER)
      enable_language(C)
    endif()
  endif()
  set(polyak_torch_compiles FALSE)
  if(TARGET polyak::torch)
    # Some compilers reject LibTorch's own headers as C++20, such as clang++ 14 those of 1.13.
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_INCLUDES ${TORCH_INCLUDE_DIRS})
    set(CMAKE_REQUIRED_FLAGS ${CMAKE_CXX20_STANDARD_COMPILE_OPTION})
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    check_cxx_source_compiles("#include <torch/nn/module.h>\n" polyak_torch_headers_compile)
    unset(CMAKE_TRY_COMPILE_TARGET_TYPE)
    unset(CMAKE_REQUIRED_FLAGS)
    unset(CMAKE_REQUIRED_INCLUDES)
    set(polyak_torch_compiles ${polyak_torch_headers_compile})
  endif()
  set(polyak_has_nvcc FALSE)
  if(TARGET polyak::cuda)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(CMAKE_CUDA_ARCHITECTURES 80)  # each program says which it is for
      enable_language(CUDA)
      set(polyak_has_nvcc TRUE)
    endif()
  endif()
  if(POLYAK_BUILD_EXAMPLES)
    find_package(CLI11 CONFIG)
    find_program(POLYAK_GNUPLOT gnuplot DOC "gnuplot, which draws the plots of the examples")
    mark_as_advanced(POLYAK_GNUPLOT)
  endif()
endmacro()

# Says what was found and what the absence of the rest costs.
function(polyak_report_dependencies)
  function(report wanted found name version gain loss)
    if(NOT wanted)
      return()
    elseif(found)
      string(STRIP "${name} ${version}" what)
      message(STATUS "  ${what}: ${gain}")
    else()
      message(STATUS "  ${name}: absent, ${loss}")
    endif()
  endfunction()

  message(STATUS "polyak ${PROJECT_VERSION} with")
  report(TRUE TRUE "Eigen" "${Eigen3_VERSION}" "the library" "")
  report(TRUE "${nlohmann_json_FOUND}" "nlohmann_json" "${nlohmann_json_VERSION}"
    "polyak::io, and replay of golden files" "no polyak::io: no files are read or written")
  report(TRUE "${polyak_has_xxhash}" "xxHash" "" "digests in files" "files without digests")
  if(POLYAK_CUDA)
    report(TRUE "${polyak_has_nvcc}" "CUDA" "${CUDAToolkit_VERSION}"
      "polyak::cuda, and programs for a GPU" "no polyak::cuda, no programs for a GPU")
  else()
    message(STATUS "  CUDA: not asked for (POLYAK_CUDA)")
  endif()
  if(POLYAK_TORCH)
    report(TRUE "${polyak_torch_compiles}" "LibTorch" "${Torch_VERSION}"
      "polyak::torch, and programs for it"
      "or not for this compiler: no programs for polyak::torch")
  else()
    message(STATUS "  LibTorch: not asked for (POLYAK_TORCH)")
  endif()
  report("${POLYAK_BUILD_TESTS}" "${Catch2_FOUND}" "Catch2" "${Catch2_VERSION}"
    "unit tests" "no unit tests")
  report("${POLYAK_BUILD_TESTS}" "${PKG_CONFIG_FOUND}" "pkg-config" "${PKG_CONFIG_VERSION_STRING}"
    "test of polyak.pc" "polyak.pc is not tested")
  report("${POLYAK_BUILD_TESTS}" "${OpenMP_CXX_FOUND}" "OpenMP" "${OpenMP_CXX_VERSION}"
    "tests of the executor OpenMp" "the executor OpenMp is not tested")
  report("${POLYAK_BUILD_BENCH}" "${benchmark_FOUND}" "Google Benchmark" "${benchmark_VERSION}"
    "polyak_bench" "no benchmarks")
  report("${POLYAK_BUILD_BENCH}" "${OpenMP_CXX_FOUND}" "OpenMP" "${OpenMP_CXX_VERSION}"
    "benchmarks with two threads" "no benchmarks with two threads")
  report("${POLYAK_BUILD_BENCH}" "${Torch_FOUND}" "LibTorch" "${Torch_VERSION}"
    "benchmarks against it" "no benchmarks against it")
  report("${POLYAK_BUILD_EXAMPLES}" "${CLI11_FOUND}" "CLI11" "${CLI11_VERSION}"
    "examples" "no examples that take options")
  report("${POLYAK_BUILD_EXAMPLES}" "${POLYAK_GNUPLOT}" "gnuplot" ""
    "plots of the examples" "the examples write CSV without plots")
endfunction()

# Whether this machine rounds once where laws say fma.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_FLAGS -march=native)
check_cxx_source_compiles("
#if !defined(__FMA__) && !defined(__ARM_FEATURE_FMA)
#error
#endif
int main() {}" POLYAK_NATIVE_HAS_FMA)
unset(CMAKE_REQUIRED_FLAGS)

# One form of each loop, for this machine: levels are looked at elsewhere, and take their time.
function(polyak_one_level target)
  target_compile_definitions(${target} PRIVATE POLYAK_NO_DISPATCH)
  target_compile_options(${target} PRIVATE -march=native)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # Its AVX-512 headers, which Eigen's own loops use, pass undefined vectors on purpose.
    target_compile_options(${target} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
endfunction()

# The same, and small: for tests of many methods, whose loops would be most of what is compiled.
function(polyak_small_loops target)
  polyak_one_level(${target})
  target_compile_definitions(${target} PRIVATE POLYAK_SMALL_LOOPS)
endfunction()

# Compiles the files of a test program `count` at a time: what they share is then compiled once. Each
# of them is a namespace of its own.
function(polyak_compile_together target count)
  set_target_properties(${target} PROPERTIES
    UNITY_BUILD ${POLYAK_TEST_TOGETHER}
    UNITY_BUILD_BATCH_SIZE ${count})
endfunction()
