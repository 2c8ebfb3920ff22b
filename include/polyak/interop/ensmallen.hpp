// SPDX-License-Identifier: Apache-2.0
/// @file
/// polyak's optimizers as update policies of ensmallen, and its averages as callbacks.
///
///   using Update = polyak::EnsmallenUpdate<polyak::AdamW<double>>;
///   ens::SGD<Update> sgd(0.01, 32, 100000, 1e-5, true, Update({.weight_decay = 0.1}));
///   polyak::EnsmallenAverage<polyak::Ema<double>> ema(polyak::EmaOptions{.decay = 0.99});
///   sgd.Optimize(function, coordinates, ema);
///   ema.copy_to(averaged);                       // an arma::mat
///
/// The header needs none of ensmallen's: a matrix is a type with elem_type, memptr(), n_rows and
/// n_cols, and n_slices if it is a cube. It is column-major and dense. ensmallen says where the
/// matrix lies with the first step, so state is allocated then; the matrix may move between steps.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <polyak/average/engine/swap.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// A dense matrix or cube of Armadillo, or of a library like it.
template <class M>
concept ArmadilloMatrix = requires(M& matrix) {
  typename M::elem_type;
  { matrix.memptr() } -> std::convertible_to<const typename M::elem_type*>;
  { matrix.n_rows } -> std::convertible_to<std::size_t>;
  { matrix.n_cols } -> std::convertible_to<std::size_t>;
};

namespace detail {

template <ArmadilloMatrix M>
[[nodiscard]] Shape shape_of_matrix(const M& matrix) {
  Shape shape{static_cast<std::int64_t>(matrix.n_rows), static_cast<std::int64_t>(matrix.n_cols)};
  if constexpr (requires { matrix.n_slices; }) {
    shape.push_back(static_cast<std::int64_t>(matrix.n_slices));
  }
  return shape;
}

/// The list of the one matrix that ensmallen moves, which has the name "coordinates".
template <FloatingScalar P>
class CoordinatesList {
 public:
  /// Refers to the matrix from now on. Throws std::invalid_argument for another shape than before.
  template <ArmadilloMatrix M>
  void follow(M& matrix) {
    static_assert(std::same_as<typename M::elem_type, P>,
                  "polyak: the matrix must have elements of the method's type: AdamW<double> for "
                  "arma::mat, AdamW<float> for arma::fmat");
    if (params_.size() == 0) {
      params_.add("coordinates", matrix.memptr(), shape_of_matrix(matrix), Role::average,
                  Order::column_major);
    } else {
      require_shape(matrix);
      if (params_[0].raw() != matrix.memptr()) params_.rebind("coordinates", matrix.memptr());
    }
  }
  template <ArmadilloMatrix M>
  void require_shape(const M& matrix) const {
    const Shape& known = params_[0].shape();
    std::size_t size = matrix.n_rows * matrix.n_cols;
    bool same = static_cast<std::size_t>(known[0]) == matrix.n_rows &&
                static_cast<std::size_t>(known[1]) == matrix.n_cols;
    if constexpr (requires { matrix.n_slices; }) {
      size *= matrix.n_slices;
      same = same && size == params_[0].size();
    }
    if (same) return;
    refuse_argument(
        "the matrix must have the shape of the first step, " + text(known[0]) + " x " +
            text(known[1]) + " (" + text(params_[0].size()) + " elements)",
        text(matrix.n_rows) + " x " + text(matrix.n_cols) + " (" + text(size) + " elements)");
  }
  [[nodiscard]] const Parameters<P>& params() const { return params_; }

 private:
  Parameters<P> params_;
};

}  // namespace detail

/// An optimizer of polyak, such as AdamW<double>, as the update policy of ens::SGD and of the
/// optimizers that are made of it.
///
/// The learning rate of a step is the step size that ensmallen passes, unless Rate::of_options
/// keeps that of the options. ensmallen sums gradients over a batch, and from version 3 on divides
/// the step size by the batch's size. So for optimizers that normalise gradients, such as AdamW
/// and Lion, its step size is the learning rate times the size of a batch.
template <class Optimizer>
class EnsmallenUpdate {
  static_assert(Method<Optimizer> && Optimizer::trains, "polyak: not an optimizer");

 public:
  using Options = typename Optimizer::Options;
  enum class Rate : std::uint8_t {
    of_ensmallen,  ///< the step size, after its decay policy
    of_options,    ///< the learning rate of the options
  };

  /// Throws std::invalid_argument for options out of range. A learning rate without a default may
  /// be left out with Rate::of_ensmallen.
  explicit EnsmallenUpdate(Options options = {}, Rate rate = Rate::of_ensmallen)
      : options_(std::move(options)), rate_(rate) {
    if (rate == Rate::of_ensmallen) options_.learning_rate = 0;
    validate(options_);
  }
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] Rate rate() const { return rate_; }

  /// The state of one optimization, as ensmallen constructs it.
  template <class MatType, class GradType>
  class Policy {
    using P = typename Optimizer::Parameter;

   public:
    Policy(const EnsmallenUpdate& update, std::size_t rows, std::size_t columns)
        : options_(update.options()), rate_(update.rate()) {
      static_cast<void>(rows);
      static_cast<void>(columns);
    }

    /// One step. Throws as polyak::step, and std::invalid_argument for a matrix or gradient of
    /// another shape than that of the first step.
    // NOLINTNEXTLINE(readability-identifier-naming): ensmallen calls it so
    void Update(MatType& iterate, double step_size, const GradType& gradient) {
      static_assert(ArmadilloMatrix<GradType>,
                    "polyak: gradients must be dense; sparse ones have no memptr()");
      list_.follow(iterate);
      list_.require_shape(gradient);
      if (!optimizer_) {
        gradients_.emplace(list_.params());
        optimizer_.emplace(list_.params(), options_);
      }
      if (rate_ == Rate::of_ensmallen) optimizer_->at(step_size);
      gradients_->set_all(std::array<const P*, 1>{gradient.memptr()});
      optimizer_->step(list_.params(), *gradients_);
    }

    /// Throws std::logic_error before the first step.
    [[nodiscard]] const Optimizer& optimizer() const {
      if (!optimizer_) detail::refuse_order("polyak: ensmallen has made no step yet");
      return *optimizer_;
    }

   private:
    Options options_;
    Rate rate_;
    detail::CoordinatesList<P> list_;
    std::optional<Gradients<P>> gradients_;
    std::optional<Optimizer> optimizer_;
  };

 private:
  Options options_;
  Rate rate_;
};

/// When EnsmallenAverage updates its average.
enum class EnsmallenCall : std::uint8_t {
  step,   ///< after each step
  epoch,  ///< after each pass over the data
};

/// An average of polyak, such as Ema<double>, as a callback of ensmallen's optimizers. Pass it to
/// Optimize() by name, and read it afterwards; a further Optimize() goes on with the same average.
template <class Average>
class EnsmallenAverage {
  static_assert(AveragingMethod<Average>, "polyak: not an average");
  using P = typename Average::Parameter;

 public:
  /// `arguments` are those of the average's constructor behind the parameters. What is out of range
  /// is refused when the optimization begins.
  template <class... Arguments>
  explicit EnsmallenAverage(EnsmallenCall call, Arguments... arguments)
      : call_(call), make_([arguments...](const Parameters<P>& params) {
          return Average(params, arguments...);
        }) {}
  /// The same, after each step.
  template <class... Arguments>
  requires(!(std::same_as<std::remove_cvref_t<Arguments>, EnsmallenCall> || ...) &&
           !(std::same_as<std::remove_cvref_t<Arguments>, EnsmallenAverage> ||
             ...)) explicit EnsmallenAverage(Arguments... arguments)
      : EnsmallenAverage(EnsmallenCall::step, std::move(arguments)...) {}

  /// Whether there has been an update or, of an average that weighs its start, a call.
  [[nodiscard]] bool ready() const { return average_ && average_->ready(); }
  /// Throws std::logic_error before the first call.
  [[nodiscard]] const Average& average() const {
    if (!average_) detail::refuse_order("polyak: ensmallen has made no step or epoch yet");
    return *average_;
  }
  /// Writes the average into a matrix, which gets its size. Throws std::logic_error before the
  /// first update.
  template <ArmadilloMatrix M>
  void copy_to(M& target) const {
    static_cast<void>(average().view());  // refuses an average that is not readable
    const Shape& shape = list_.params()[0].shape();
    const auto length = [&](std::size_t k) { return static_cast<std::size_t>(shape[k]); };
    if constexpr (requires { target.n_slices; }) {
      target.set_size(length(0), length(1), length(2));
    } else {
      target.set_size(length(0), length(1));
    }
    detail::CoordinatesList<P> list;
    list.follow(target);
    average().copy_to(list.params());
  }
  /// Puts the average into the coordinates until the guard ends; see AveragedWeights::swap_into.
  template <ArmadilloMatrix M>
  [[nodiscard]] SwapGuard swap_into(M& coordinates) {
    static_cast<void>(average());
    list_.follow(coordinates);
    return average_->swap_into(list_.params());
  }

  // Called by ensmallen, by these names.
  // NOLINTBEGIN(readability-identifier-naming)
  /// An average that begins with the parameters begins with those before the first step.
  template <class OptimizerType, class FunctionType, class MatType>
  void BeginOptimization(OptimizerType&, FunctionType&, MatType& coordinates) {
    begin(coordinates);
  }
  template <class OptimizerType, class FunctionType, class MatType>
  void StepTaken(OptimizerType&, FunctionType&, MatType& coordinates) {
    if (call_ == EnsmallenCall::step) update(coordinates);
  }
  template <class OptimizerType, class FunctionType, class MatType>
  void EndEpoch(OptimizerType&, FunctionType&, MatType& coordinates, std::size_t, double) {
    if (call_ == EnsmallenCall::epoch) update(coordinates);
  }
  // NOLINTEND(readability-identifier-naming)

 private:
  template <class MatType>
  void begin(MatType& coordinates) {
    using Matrix = std::remove_const_t<MatType>;
    list_.follow(const_cast<Matrix&>(coordinates));  // NOLINT: an average only reads them
    if (!average_) average_.emplace(make_(list_.params()));
  }
  template <class MatType>
  void update(MatType& coordinates) {
    begin(coordinates);
    average_->update(list_.params());
  }

  EnsmallenCall call_;
  std::function<Average(const Parameters<P>&)> make_;
  detail::CoordinatesList<P> list_;
  std::optional<Average> average_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
