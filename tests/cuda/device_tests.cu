// SPDX-License-Identifier: Apache-2.0
// The tests of a device, on one: the same files that the emulation runs, compiled by nvcc. Ends
// with status 77, which CTest counts as skipped, where there is no device.
#define CATCH_CONFIG_RUNNER
#include <cuda_runtime_api.h>

#include <cstdio>

#include "../support/catch.hpp"

#include "twin_test.cpp"

#include "captured_test.cpp"
#include "executor_test.cpp"
#include "groups_test.cpp"
#include "nonfinite_test.cpp"
#include "streams_test.cpp"

int main(int count, char** arguments) {
  int devices = 0;
  const cudaError_t code = cudaGetDeviceCount(&devices);
  if (code != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no CUDA device (%s)\n", cudaGetErrorString(code));
    return 77;
  }
  return Catch::Session().run(count, arguments);
}
