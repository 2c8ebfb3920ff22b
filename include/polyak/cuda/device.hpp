// SPDX-License-Identifier: Apache-2.0
/// @file
/// The type of lists whose numbers lie in the memory of a GPU.
#pragma once

#include <polyak/core/scalar.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace cuda {
/// Stands for T in the type of a parameter list whose numbers lie in the memory of a GPU. Complete
/// nowhere: there are no such numbers on the host.
template <class T>
struct Device;
}  // namespace cuda

namespace detail {
template <class T>
struct ListType<cuda::Device<T>> {
  using Element = T;
  static constexpr bool on_device = true;
};
}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
