// SPDX-License-Identifier: Apache-2.0
/// @file
/// The host's loops for tests that nvcc compiles, which cannot compile those of core/sweep.hpp: the
/// laws on scalars, element by element. To the bits of the packs, as the emulated tests show.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/sweep.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// Loops of scalars without their types.
template <class P>
struct ScalarLoop {
  void (*sweep)(const void* bound, const TensorMemory& memory, const P* gradient,
                const GradientReading& reading, std::size_t tensor) = nullptr;
  const void* bound = nullptr;
};

template <FloatingScalar P>
struct Sweep<P> {
  using Loop = ScalarLoop<P>;
  using Plan = SweepPlan<Loop>;
  template <class StepDriver>
  using Driver = StepDriver;
  struct Hooks {
    template <class M>
    static constexpr Hooks of() {
      return {};
    }
  };
  template <class E>
  static void check(const E&, const Parameters<P>&) {}

  template <bool, class B>
  [[nodiscard]] static Loop loop(const B& bound) {
    return {[](const void* one, const TensorMemory& memory, const P* gradient,
               const GradientReading& reading, std::size_t k) {
              elements(memory, gradient, reading, k,
                       Members<const B*>{{{static_cast<const B*>(one)}}});
            },
            &bound};
  }
  template <class... B>
  [[nodiscard]] static constexpr Loop shared_loop() {
    return {[](const void* bound, const TensorMemory& memory, const P* gradient,
               const GradientReading& reading,
               std::size_t k) { elements(memory, gradient, reading, k, members_at<B...>(bound)); },
            nullptr};
  }
  static void over(const ExecutorRef&, const Parameters<P>& params, const P* const* gradients,
                   const GradientReading& reading, const Plan& plan) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      const P* const gradient = gradients == nullptr ? nullptr : gradients[k];
      const auto methods = plan.methods_of(k, gradient != nullptr);
      const TensorMemory memory{params[k].raw(), params[k].size()};
      if (const Loop* const all = plan.loop_of_all(methods); all != nullptr) {
        all->sweep(all->bound, memory, gradient, reading, k);
        continue;
      }
      for (std::size_t i = 0; i < plan.single_count; ++i) {
        const Loop& loop = plan.singles[i].loop;
        if ((methods >> i & 1) != 0) loop.sweep(loop.bound, memory, gradient, reading, k);
      }
    }
  }
  template <class B>
  static void all(const ExecutorRef& executor, const Parameters<P>& params, const B& bound,
                  const std::size_t* offsets, const P* const* gradients = nullptr) {
    const typename Plan::Single single{offsets, true, gradients != nullptr, loop<false>(bound)};
    over(executor, params, gradients, {}, Plan{&single, 1, nullptr, 0});
  }
  template <class B>
  static void all(const ExecutorRef& executor, const Parameters<P>& params, const B& bound) {
    all(executor, params, bound, bound.offsets);
  }
  template <class B>
  static void one(const TensorMemory* tensors, std::size_t tensor, const B& bound) {
    elements(tensors[tensor], nullptr, {}, tensor, Members<const B*>{{{&bound}}});
  }
  template <class B>
  static void one(const Parameters<P>& params, std::size_t tensor, const B& bound) {
    elements({params[tensor].raw(), params[tensor].size()}, nullptr, {}, tensor,
             Members<const B*>{{{&bound}}});
  }
  template <class Takes>
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params, const Takes& takes) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (takes(k) && !finite(params[k].data(), params[k].size())) return false;
    }
    return true;
  }
  template <class Takes>
  [[nodiscard]] static bool gradients_finite(const Parameters<P>& params, const P* const* gradients,
                                             const Takes& takes) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (gradients[k] != nullptr && takes(k) && !finite(gradients[k], params[k].size())) {
        return false;
      }
    }
    return true;
  }
  static void copy(const Parameters<P>&, const std::vector<CopyPiece>& pieces) {
    for (const CopyPiece& piece : pieces) copy_bytes(nullptr, piece.to, piece.from, piece.bytes);
  }

 private:
  template <class... B>
  static void elements(const TensorMemory& memory, const P* gradient,
                       const GradientReading& reading, std::size_t k,
                       const Members<const B*...>& bound) {
    using Grid = cuda::detail::GridSweep<P, B...>;
    typename Grid::RowType row{memory.data, memory.size, k, {}};
    std::size_t r = 0;
    each_member(bound, [&](const auto* one) {
      row.offsets[r++] = one->offsets == nullptr ? 0 : one->offsets[k];
    });
    const typename Grid::Arguments arguments{cuda::detail::chain_of<0>(bound, k),
                                             static_cast<carrier_t<P>>(reading.scale),
                                             static_cast<carrier_t<P>>(reading.limit),
                                             reading.scale,
                                             nullptr,
                                             false};
    for (std::size_t begin = 0; begin < memory.size; begin += Grid::chunk) {
      Grid::thread(row, gradient, arguments, begin, 0, 1);
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
