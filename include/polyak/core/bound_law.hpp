// SPDX-License-Identifier: Apache-2.0
/// @file
/// A run: one law with the slots it runs on; and who carries runs over the elements of a list.
#pragma once

#include <array>
#include <cstddef>
#include <numeric>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// One law with the slots it runs on, and how they keep their values.
template <class Law, class S, template <class> class Storage = Plain>
struct Run {
  using State = S;
  using LawType = Law;
  using StorageType = Storage<S>;
  using Key = typename StorageType::Key;
  static constexpr int slot_count = Law::traffic.slots;
  static constexpr int arrays = slot_count * StorageType::arrays;
  Law law;
  std::array<S*, static_cast<std::size_t>(arrays == 0 ? 1 : arrays)> slots;  // first elements
  const std::size_t* offsets;                                                // of each tensor
  [[no_unique_address]] Key key = {};
};

/// `values` says which of the values that the slots keep each slot of the law is: in the order of
/// the slots, unless given.
template <template <class> class Storage = Plain, class Law, class S>
[[nodiscard]] Run<Law, S, Storage> make_run(
    const Law& law, const Slots<S>& slots, const typename Storage<S>::Key& key,
    const std::array<std::size_t, static_cast<std::size_t>(Law::traffic.slots)>& values) {
  using R = Run<Law, S, Storage>;
  constexpr auto each = static_cast<std::size_t>(R::StorageType::arrays);
  R run{law, {}, slots.offsets(), key};
  for (std::size_t k = 0; k < values.size(); ++k) {
    for (std::size_t j = 0; j < each; ++j) {
      run.slots[k * each + j] = slots.data(values[k] * each + j);
    }
  }
  return run;
}
template <template <class> class Storage = Plain, class Law, class S>
[[nodiscard]] Run<Law, S, Storage> make_run(const Law& law, const Slots<S>& slots,
                                            const typename Storage<S>::Key& key = {}) {
  std::array<std::size_t, static_cast<std::size_t>(Law::traffic.slots)> values{};
  std::iota(values.begin(), values.end(), std::size_t{0});
  return make_run<Storage>(law, slots, key, values);
}

/// Bytes to copy within the memory of a list.
struct CopyPiece {
  void* to;
  const void* from;
  std::size_t bytes;
};

template <class>
inline constexpr bool always_false = false;

/// The loops over the elements of lists of P: core/walk.hpp has those over the host's memory, which
/// the host's compiler gets with step.hpp; cuda/walk.hpp those over a device's, for nvcc.
template <class P>
struct Walker {
  static_assert(
      always_false<P>,
      "polyak: lists in the host's memory are for files of the host's compiler, lists on a "
      "device for files that nvcc compiles and that include <polyak/cuda.hpp>");
};

}  // namespace detail
}  // namespace v0
}  // namespace polyak
