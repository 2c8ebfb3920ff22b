// SPDX-License-Identifier: Apache-2.0
/// @file
/// Errors of CUDA, checked at every call.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {

/// An error of CUDA, with the name of the failed call. Later calls report errors of earlier
/// launches; after most of these errors the process can no longer use the device's memory.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

[[noreturn]] POLYAK_COLD inline void refuse_call(cudaError_t code, const char* call) {
  POLYAK_THROW(error, std::string("polyak: ") + call + " failed: " + cudaGetErrorName(code) + ", " +
                          cudaGetErrorString(code));
}

/// Throws cuda::error unless the call succeeded.
inline void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) refuse_call(code, call);
}

}  // namespace detail
}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
