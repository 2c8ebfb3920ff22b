// SPDX-License-Identifier: Apache-2.0
/// @file
/// A method whose slots have every shape.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slot_shape.hpp>
#include <polyak/optim/elementwise.hpp>

namespace shaped {

struct ShapedOptions {
  double learning_rate = 0.125;
  std::int64_t side = 0;  ///< of the free matrices; 0: that of the tensor
  polyak::Nonfinite nonfinite = polyak::Nonfinite::propagate;
};
template <class Fields>
void fields(ShapedOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, polyak::finite_and_not_negative);
  field("nonfinite", o.nonfinite);
}

template <class T>
struct ShapedLaw {
  static constexpr polyak::LawSlots slots{"momentum"};
  T beta, step;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m) const {
    m = fma(beta, m, g);
    x = fma(-step, m, x);
  }
};

struct ShapedRule {
  using Options = ShapedOptions;
  static constexpr std::string_view name = "Shaped";
  template <class T>
  static ShapedLaw<T> law(const ShapedOptions&, const polyak::StepOf<T>& step) {
    return {.beta = step(0.5), .step = step(step.learning_rate)};
  }
  static std::vector<polyak::SlotSpec> more_slots(const ShapedOptions& o) {
    using polyak::MatrixView;
    using polyak::Shape;
    using polyak::SlotShape;
    return {{"rows", SlotShape::rows},
            {"columns", SlotShape::columns, MatrixView::last_two},
            {"norm", SlotShape::scalar},
            {"left", [side = o.side](const polyak::TensorInfo& tensor) -> std::optional<Shape> {
               if (tensor.shape.size() != 2) return std::nullopt;
               const std::int64_t n = side == 0 ? tensor.shape[0] : side;
               return Shape{n, n};
             }}};
  }
};

/// Momentum; every number of the other slots gains the sum of the tensor's momentum and its place.
template <polyak::ParameterScalar P, polyak::ComputeScalar S = polyak::default_state_t<P>>
class Shaped final : public polyak::Elementwise<Shaped<P, S>, ShapedRule, P, S> {
 public:
  explicit Shaped(const polyak::Parameters<P>& params, ShapedOptions options = {})
      : polyak::Elementwise<Shaped<P, S>, ShapedRule, P, S>(params, options, {}) {}

  void finish(const polyak::ExecutorRef&, const polyak::Parameters<P>& params) {
    const polyak::Slots<S>& slots = this->slots();
    for (std::size_t k = 0; k < params.size(); ++k) {
      S sum = 0;
      for (const S value : read(slots, 0, k)) sum += value;
      for (std::size_t slot = 1; slot < slots.count(); ++slot) {
        std::vector<S> values = read(slots, slot, k);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] += sum + static_cast<S>(i + slot);
        polyak::detail::write_bytes(slots.space(), slots.address(slot, k), values.data(),
                                    slots.bytes(slot, k));
      }
    }
  }

 private:
  static std::vector<S> read(const polyak::Slots<S>& slots, std::size_t slot, std::size_t k) {
    std::vector<S> values(slots.bytes(slot, k) / sizeof(S));
    polyak::detail::read_bytes(slots.space(), values.data(), slots.address(slot, k),
                               slots.bytes(slot, k));
    return values;
  }
};

}  // namespace shaped
