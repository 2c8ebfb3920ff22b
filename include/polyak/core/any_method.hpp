// SPDX-License-Identifier: Apache-2.0
/// @file
/// AnyMethod: a method whose type is chosen at run time, and steps of lists of them.
///
///   std::vector<polyak::AnyMethod<float>> methods;
///   methods.emplace_back(polyak::AdamW<float>(params, {.learning_rate = 1e-3}));
///   if (wants_average) methods.emplace_back(polyak::Ema<float>(params, {.decay = 0.999}));
///   polyak::step(params, gradients, methods);
///   polyak::save("run.safetensors", params, methods);
///
/// The methods run one after another over blocks of 8192 elements, in the order given. Weights and
/// gradients come from memory once for all of them, but from the cache once for each. Methods that
/// are named one by one share a loop instead and keep them in registers. The bits are the same.
///
/// Above 300 lines: what stands for a method has all that a method has.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/step_driver.hpp>
#include <polyak/core/step_methods.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// What files say of a method beside its state.
struct MethodEntry {
  std::string_view type;
  bool trains;
  DType parameter, state;
  std::shared_ptr<const Layout> layout;
};

/// The name of a method in files.
template <class M>
[[nodiscard]] constexpr std::string_view name_of_method() {
  if constexpr (requires { M::type_name; }) {
    return M::type_name;
  } else {
    return plain_type_name<M>();
  }
}

/// A method and the functions of it that AnyMethod needs.
template <class P>
class HeldMethod {
 public:
  HeldMethod(const HeldMethod&) = delete;
  HeldMethod& operator=(const HeldMethod&) = delete;
  virtual ~HeldMethod() = default;

  [[nodiscard]] virtual std::unique_ptr<HeldMethod> copy() const = 0;
  [[nodiscard]] virtual MethodEntry entry() const = 0;
  [[nodiscard]] virtual MemoryReport memory_report() const = 0;
  [[nodiscard]] virtual std::int64_t calls() const = 0;
  [[nodiscard]] virtual std::int64_t skipped() const = 0;
  virtual void at(double learning_rate) = 0;
  virtual void list(StateVisitor& visit) const = 0;
  virtual void list(StateEditor& visit) = 0;

  void* const object;                 ///< the method
  const MethodTable<P>* const table;  ///< of its type

 protected:
  HeldMethod(void* method, const MethodTable<P>* functions) : object(method), table(functions) {}
};

template <class P, class M>
class HeldAs final : public HeldMethod<P> {
 public:
  explicit HeldAs(const M& method)
      : HeldMethod<P>(&method_, &TableOf<P, M>::table), method_(method) {}
  explicit HeldAs(M&& method)
      : HeldMethod<P>(&method_, &TableOf<P, M>::table), method_(std::move(method)) {}

  [[nodiscard]] std::unique_ptr<HeldMethod<P>> copy() const override {
    return std::make_unique<HeldAs>(method_);
  }
  [[nodiscard]] MethodEntry entry() const override {
    return {name_of_method<M>(), M::trains, dtype_of<P>(), dtype_of<typename M::State>(),
            method_.slots().layout()};
  }
  [[nodiscard]] MemoryReport memory_report() const override {
    if constexpr (requires { method_.memory_report(); }) {
      return method_.memory_report();
    } else {
      return method_.slots().memory_report();
    }
  }
  [[nodiscard]] std::int64_t calls() const override {
    if constexpr (requires { method_.calls(); }) {
      return method_.calls();
    } else {
      return method_.count();
    }
  }
  [[nodiscard]] std::int64_t skipped() const override { return method_.skipped(); }
  void at(double learning_rate) override {
    if constexpr (requires { method_.at(learning_rate); }) {
      method_.at(learning_rate);
    } else {
      refuse_value("polyak: at() of " + std::string(name_of_method<M>()) +
                   ", which has no learning rate");
    }
  }
  void list(StateVisitor& visit) const override { visit_state(method_, visit); }
  void list(StateEditor& visit) override { visit_state(method_, visit); }

 private:
  M method_;
};

}  // namespace detail

/// A value that owns an optimizer or an average of any type, for parameters of P. A copy owns a
/// copy of the method. After a move only assignment and destruction are allowed; everything else
/// throws std::logic_error.
template <ParameterScalar P>
class AnyMethod {
 public:
  using Parameter = P;

  /// Takes over a copy of the method, or the method itself if it is a temporary. The method must be
  /// copyable and list its state (core/state.hpp).
  template <class M>
  requires(!std::same_as<std::remove_cvref_t<M>, AnyMethod> &&
           detail::MethodOf<std::remove_cvref_t<M>, P>) AnyMethod(M&& method)  // NOLINT: any method
      : held_(
            std::make_unique<detail::HeldAs<P, std::remove_cvref_t<M>>>(std::forward<M>(method))) {}
  AnyMethod(const AnyMethod& other) : held_(other.held().copy()) {}
  AnyMethod(AnyMethod&&) noexcept = default;
  AnyMethod& operator=(const AnyMethod& other) { return *this = AnyMethod(other); }
  AnyMethod& operator=(AnyMethod&&) noexcept = default;
  ~AnyMethod() = default;

  /// The method, or null if it is not an M: `if (auto* adamw = any.get<AdamW<float>>())`. The
  /// address stays the same when the AnyMethod is moved.
  template <detail::MethodOf<P> M>
  [[nodiscard]] M* get() {
    return is<M>() ? static_cast<M*>(held_->object) : nullptr;
  }
  template <detail::MethodOf<P> M>
  [[nodiscard]] const M* get() const {
    return is<M>() ? static_cast<const M*>(held_->object) : nullptr;
  }

  /// The name of the method's type in files, such as "AdamW".
  [[nodiscard]] std::string_view name() const { return held().entry().type; }
  /// Whether it is an optimizer; else it is an average.
  [[nodiscard]] bool is_optimizer() const { return held().table->trains; }
  /// Calls that counted: steps of an optimizer, updates of an average.
  [[nodiscard]] std::int64_t calls() const { return held().calls(); }
  /// Calls that Nonfinite::skip_step left out.
  [[nodiscard]] std::int64_t skipped() const { return held().skipped(); }
  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const { return held().memory_report(); }

  /// Sets the learning rate of an optimizer from the next step on. Throws std::invalid_argument
  /// unless it is finite and >= 0, and for a method without a learning rate.
  AnyMethod& at(double learning_rate) {
    held().at(learning_rate);
    return *this;
  }

  /// One step or update of this method alone. Both throw as those of lists.
  bool step(const Parameters<P>& params, const Gradients<P>& gradients);
  bool update(const Parameters<P>& params);

  // Called by step(), and for files.
  [[nodiscard]] detail::StepMethod<P> part() { return {held().object, held().table, {}}; }
  [[nodiscard]] detail::MethodEntry entry() const { return held().entry(); }
  [[nodiscard]] bool started() const { return calls() > 0 || skipped() > 0; }
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    self.held().list(visit);
  }

 private:
  template <class M>
  [[nodiscard]] bool is() const {
    return held().table == &detail::TableOf<P, M>::table;
  }
  [[nodiscard]] const detail::HeldMethod<P>& held() const {
    if (held_ == nullptr) refuse_moved();
    return *held_;
  }
  [[nodiscard]] detail::HeldMethod<P>& held() {
    if (held_ == nullptr) refuse_moved();
    return *held_;
  }
  [[noreturn]] static void refuse_moved() {
    detail::refuse_order("polyak: the AnyMethod was moved from");
  }

  std::unique_ptr<detail::HeldMethod<P>> held_;
};

namespace detail {

/// The methods of a step and the memory of their laws, on the stack. Most of it is left as it was.
template <class P, std::size_t Most>
class AnyStepMemory {
 public:
  [[nodiscard]] StepParts<P> parts(std::span<AnyMethod<P>> methods) {
    for (std::size_t k = 0; k < methods.size(); ++k) methods_[k] = methods[k].part();
    return {std::span(methods_.data(), methods.size()), singles_.data(), {}, nullptr, bound_};
  }

 private:
  std::array<StepMethod<P>, Most> methods_;
  std::array<typename Sweep<P>::Plan::Single, Most> singles_;
  alignas(cache_line) std::byte bound_[Most][most_bound_bytes];
};

template <std::size_t Most, class P>
bool call_any_with(const ExecutorRef& executor, const Parameters<P>& params,
                   const Gradients<P>* gradients, std::span<AnyMethod<P>> methods) {
  using Driver = typename Sweep<P>::template Driver<StepDriver<P>>;
  AnyStepMemory<P, Most> memory;
  return Driver(executor, params, gradients, memory.parts(methods)).check_and_advance();
}

template <class E, class P>
bool call_any(E& executor, const Parameters<P>& params, const Gradients<P>* gradients,
              std::span<AnyMethod<P>> methods) {
  constexpr std::size_t most = Sweep<P>::Plan::most_methods, few = 8;
  static_assert(most == 64);
  require(methods.size() <= most, "a step or update must have at most 64 methods", methods.size());
  check_lists(params, gradients);
  Sweep<P>::check(executor, params);
  for (const AnyMethod<P>& method : methods) {
    if (gradients != nullptr || !method.is_optimizer()) continue;
    refuse_value("polyak: update() must be given averages; " + std::string(method.name()) +
                 " is an optimizer");
  }
  if (methods.empty()) return true;
  const ExecutorRef any(executor);
  return methods.size() <= few ? call_any_with<few>(any, params, gradients, methods)
                               : call_any_with<most>(any, params, gradients, methods);
}

}  // namespace detail

/// One training step of a list of methods, in the order given: see step() of single methods, of
/// which it has the bits, checks, skips and errors. An average after an optimizer sees the new
/// weights. A list without methods checks its arguments and does nothing else. Takes a
/// std::vector<AnyMethod<P>> and anything else that converts to the span.
///
/// It costs more than a step of methods named one by one: each method loads and stores weights and
/// gradients, though all but the first find them in the cache. Allocates nothing. Throws
/// std::invalid_argument also for more than 64 methods.
template <ParameterScalar P>
bool step(const Parameters<P>& params, const Gradients<P>& gradients,
          std::type_identity_t<std::span<AnyMethod<P>>> methods) {
  return detail::call_any(serial, params, &gradients, methods);
}
/// The same on the given executor.
template <class E, ParameterScalar P>
requires(detail::ExecutorOf<E, P>) bool step(
    E&& executor, const Parameters<P>& params, const Gradients<P>& gradients,
    std::type_identity_t<std::span<AnyMethod<P>>> methods) {
  return detail::call_any(executor, params, &gradients, methods);
}

/// Updates a list of averages with the current parameters, as step() does. Throws
/// std::invalid_argument for an optimizer in the list.
template <ParameterScalar P>
bool update(const Parameters<P>& params, std::type_identity_t<std::span<AnyMethod<P>>> averages) {
  return detail::call_any(serial, params, static_cast<const Gradients<P>*>(nullptr), averages);
}
/// The same on the given executor.
template <class E, ParameterScalar P>
requires(detail::ExecutorOf<E, P>) bool update(
    E&& executor, const Parameters<P>& params,
    std::type_identity_t<std::span<AnyMethod<P>>> averages) {
  return detail::call_any(executor, params, static_cast<const Gradients<P>*>(nullptr), averages);
}

template <ParameterScalar P>
bool AnyMethod<P>::step(const Parameters<P>& params, const Gradients<P>& gradients) {
  return polyak::step(params, gradients, std::span(this, 1));
}
template <ParameterScalar P>
bool AnyMethod<P>::update(const Parameters<P>& params) {
  return polyak::update(params, std::span(this, 1));
}

}  // namespace POLYAK_V0
}  // namespace polyak
