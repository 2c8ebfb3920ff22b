// SPDX-License-Identifier: Apache-2.0
/// @file
/// The host's loops for tests that nvcc compiles, which cannot compile those of core/walk.hpp: the
/// laws on scalars, element by element. To the bits of the packs, as the emulated tests show.
#pragma once

#include <cmath>
#include <cstddef>
#include <tuple>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/walk.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

template <FloatingScalar P>
struct Walker<P> {
  struct Tensors {
    std::size_t first, last;
  };
  template <class E>
  static void check(const E&) {}
  template <class Taking, class Same, class Each>
  static void groups(const Parameters<P>& params, Taking taking_part, Same, Each pass) {
    for (std::size_t k = 0; k < params.size(); ++k) pass(Tensors{k, k + 1}, taking_part(k));
  }
  template <class E, class... Runs>
  static void walk(E&, const Parameters<P>& params, const P* const* gradients,
                   const Tensors& tensors, const std::tuple<Runs...>& runs) {
    for (std::size_t k = tensors.first; k < tensors.last; ++k) {
      elements({params[k].raw(), params[k].size()}, gradients == nullptr ? nullptr : gradients[k],
               k, runs);
    }
  }
  template <class R>
  static void one(const TensorMemory& memory, const R& run) {
    elements(memory, nullptr, 0, std::tuple(run));
  }
  template <class R>
  static void one(const Parameters<P>& params, std::size_t tensor, const R& run) {
    walk(serial, params, nullptr, {tensor, tensor + 1}, std::tuple(run));
  }
  template <class R>
  static void kept(const Parameters<P>& params, const R& run) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (run.offsets[k] != Slots<typename R::State>::absent) one(params, k, run);
    }
  }
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (params[k].info().role == Role::average && !finite(params[k].data(), params[k].size())) {
        return false;
      }
    }
    return true;
  }
  [[nodiscard]] static bool gradients_finite(const Parameters<P>& params,
                                             const P* const* gradients) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (gradients[k] != nullptr && !finite(gradients[k], params[k].size())) return false;
    }
    return true;
  }
  static void copy(const Parameters<P>&, const std::vector<CopyPiece>& pieces) {
    for (const CopyPiece& piece : pieces) copy_bytes(nullptr, piece.to, piece.from, piece.bytes);
  }

 private:
  template <class... Runs>
  static void elements(const TensorMemory& memory, const P* gradient, std::size_t k,
                       const std::tuple<Runs...>& runs) {
    using Pass = cuda::detail::Pass<P, Runs...>;
    typename Pass::RowType row{memory.data, memory.size, k, {}};
    std::size_t r = 0;
    std::apply(
        [&](const auto&... run) {
          ((row.offsets[r++] = run.offsets == nullptr ? 0 : run.offsets[k]), ...);
        },
        runs);
    const auto chain = cuda::detail::chain_of<0>(runs);
    for (std::size_t begin = 0; begin < memory.size; begin += Pass::chunk) {
      Pass::thread(row, gradient, chain, begin, 0, 1);
    }
  }
  [[nodiscard]] static bool finite(const P* data, std::size_t size) {
    for (std::size_t k = 0; k < size; ++k) {
      if (!std::isfinite(static_cast<double>(data[k]))) return false;
    }
    return true;
  }
};

}  // namespace detail
}  // namespace v0
}  // namespace polyak
