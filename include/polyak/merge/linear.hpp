// SPDX-License-Identifier: Apache-2.0
/// @file
/// average_n: the weighted average or sum of any number of models, in one pass over memory.
///
///   out = w_0 x_0 + w_1 x_1 + ... + w_(N-1) x_(N-1)
///
/// Weights of a mean are not negative and sum to 1 up to the rounding of N doubles (N 2^-52). For
/// them a running mean is computed, which returns equal inputs bit for bit:
///
///   out = x_0, then out = out + c_k (x_k - out), c_k = w_k / (w_0 + ... + w_k)
///
/// from the first input with a weight on. For all other weights, such as those of task vectors, a
/// sum is computed: sum = w_0 x_0, then sum = fma(w_k, x_k, sum). Both follow the order of the
/// inputs and compute in the type of the accumulator, to which weights and gains are rounded first.
/// The result is rounded once, to nearest even, when it is stored (from double to 16 bits through
/// float, as everywhere). Every input is read once. The output is written once and not read; it
/// bypasses the caches if it would not fit there. Nothing is allocated.
///
/// "Model soups: averaging weights of multiple fine-tuned models" (arXiv 2203.05482).
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/merge_terms.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/sum.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/stream.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

template <class Wanted, class Out, class In>
struct AccumulatorOf {
  static constexpr bool doubles = std::same_as<Out, double> || std::same_as<In, double>;
  using type = std::conditional_t<std::same_as<Wanted, void>,
                                  std::conditional_t<doubles, double, float>, Wanted>;
  static_assert(ComputeScalar<type>, "polyak: the accumulator of average_n is float or double");
  static_assert(!doubles || std::same_as<type, double>,
                "polyak: average_n accumulates doubles in double");
};
template <class Wanted, class Out, class In>
using accumulator_t = typename AccumulatorOf<Wanted, Out, In>::type;

/// The type of a container's elements.
template <class Container>
using contained_t = std::remove_pointer_t<decltype(std::declval<Container&>().data())>;

template <class T>
[[nodiscard]] const T* input_memory(const T* input) {
  return input;
}
template <FlatObject T>
[[nodiscard]] const auto* input_memory(const T& input) {
  return std::as_const(input).data();
}

/// Pointers to numbers, or spans, vectors and similar containers.
template <class T>
concept SummedMemory = FlatObject<T> && requires(const T& inputs) {
  requires ParameterScalar<std::remove_cvref_t<decltype(*input_memory(*inputs.data()))>>;
};

/// Memory that can be written: a span, std::vector, std::array of numbers.
template <class T>
concept SumTarget = FlatObject<std::remove_reference_t<T>> &&
    ParameterScalar<contained_t<std::remove_reference_t<T>>>;

template <class T, class P>
concept SummedLists = FlatObject<T> && requires(const T& lists) {
  { list_of(*lists.data()) } -> std::same_as<const Parameters<P>&>;
};

/// Plain memory with the same number of elements at each address.
template <class Inputs>
struct MemoryInputs {
  using In = std::remove_cvref_t<decltype(*input_memory(*std::declval<const Inputs&>().data()))>;
  const Inputs& inputs;
  std::size_t elements;
  [[nodiscard]] std::size_t size() const { return inputs.size(); }
  [[nodiscard]] Stream<const In> operator[](std::size_t k) const {
    const auto& input = inputs.data()[k];
    return {input_memory(input), elements, space_of_array(input)};
  }
};

template <class Accumulator>
void require_weights(std::size_t inputs, std::span<const double> weights) {
  require(inputs >= 1, "average_n must have at least one input", inputs);
  require(weights.size() == inputs, "average_n must have one weight per input", weights.size());
  for (std::size_t k = 0; k < inputs; ++k) {
    const bool holds =
        is_finite(weights[k]) &&
        std::fabs(weights[k]) <= static_cast<double>(std::numeric_limits<Accumulator>::max());
    if (!holds) {
      require(false,
              "average_n: weight " + text(k) + " must be finite as " +
                  std::string(name_of(dtype_of<Accumulator>())),
              weights[k]);
    }
  }
}

/// Computes the mean or the sum, depending on the weights. Tests pass a StreamPlan.
template <class Accumulator, class Executor, class Out, class Inputs, class... Plan>
void average_streams(Executor& executor, const Stream<Out>& out, const Inputs& inputs,
                     std::span<const double> weights, const Plan&... plan) {
  using Loops = StreamLoops<std::remove_cvref_t<Executor>>;
  const std::array<Stream<Out>, 1> outputs{out};
  if (are_of_a_mean(weights)) {
    const MeanOrder order(weights);
    Loops::merge("average_n", executor, WeightedMeanLaw<Accumulator>{}, outputs,
                 OrderedInputs<Inputs>{inputs, order}, MeanWeights{weights, order}, AnyTensor{},
                 plan...);
  } else {
    Loops::merge("average_n", executor, WeightedSumLaw<Accumulator>{}, outputs, inputs,
                 GivenWeights{weights}, AnyTensor{}, plan...);
  }
}

template <class Wanted, class Executor, class Out, class Inputs, class... Plan>
void average_memory(Executor& executor, Out& out, const Inputs& inputs,
                    std::span<const double> weights, const Plan&... plan) {
  using To = contained_t<Out>;
  using Accumulator = accumulator_t<Wanted, To, typename MemoryInputs<Inputs>::In>;
  require_weights<Accumulator>(inputs.size(), weights);
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    if constexpr (FlatObject<std::remove_cvref_t<decltype(*inputs.data())>>) {
      if (inputs.data()[k].size() != out.size()) {
        require(false,
                "average_n: input " + text(k) + " must have " + text(out.size()) +
                    " elements, as the output has",
                inputs.data()[k].size());
      }
    } else if (inputs.data()[k] == nullptr && out.size() != 0) {
      require(false, "average_n: input " + text(k) + " must have memory, not a null address",
              std::string_view("null"));
    }
  }
  const Stream<To> output(out.data(), out.size(), space_of_array(out));
  average_streams<Accumulator>(executor, output, MemoryInputs<Inputs>{inputs, out.size()}, weights,
                               plan...);
}

template <class Wanted, class Executor, class P, class Lists, class... Plan>
void average_lists(Executor& executor, const Parameters<P>& target, const Lists& lists,
                   std::span<const double> weights, const Plan&... plan) {
  using Accumulator = accumulator_t<Wanted, element_t<P>, element_t<P>>;
  require_weights<Accumulator>(lists.size(), weights);
  for (std::size_t k = 0; k < lists.size(); ++k) {
    require_same(list_of(lists.data()[k]).layout(), target.layout(),
                 "an input of average_n and its target");
  }
  if (target.swapped()) refuse_order("polyak: average_n() while an average is swapped in");
  const Stream<element_t<P>> out(target.layout().get(), ParameterAccess<P>::memory(target));
  average_streams<Accumulator>(executor, out, InputsOf<Lists>{lists}, weights, plan...);
}

}  // namespace detail

/// out = the sum of weights[k] * inputs[k], in one pass. For the weights of a mean it computes the
/// running mean; see the top of this file.
///
/// `out` is a span, std::vector or std::array; `inputs` is a container of such, or of pointers to
/// as many elements as `out` has. With the executor of a device they are in its memory, for example
/// buffers. Numbers are float, double, Eigen::half or Eigen::bfloat16, and
/// inputs may be of another type than the output. `Accumulator` is float or double; the default is
/// double if a double is read or written, else float.
///
/// `out` may be one of the inputs. Weights may be any finite numbers, also negative; they need not
/// sum to 1. NaN and infinity propagate as IEEE 754 specifies, also from inputs of weight 0.
///
/// Throws std::invalid_argument, before anything is written, without inputs, for another number of
/// weights than of inputs, a weight that is not finite in the accumulator's type (naming index and
/// value), inputs of another size than the output, or an output that partly overlaps an input.
///
///     polyak::average_n(soup, std::array{a.data(), b.data()}, std::array{0.5, 0.5});
template <class Accumulator = void, detail::SumTarget Out, detail::SummedMemory Inputs>
void average_n(Out&& out, const Inputs& inputs, std::span<const double> weights) {
  detail::average_memory<Accumulator>(serial, out, inputs, weights);
}

/// As above, on the given executor. No bit of the result depends on how it splits the elements.
template <class Accumulator = void, class E, detail::SumTarget Out, detail::SummedMemory Inputs>
requires(detail::StreamExecutor<E>) void average_n(E&& executor, Out&& out, const Inputs& inputs,
                                                   std::span<const double> weights) {
  detail::average_memory<Accumulator>(executor, out, inputs, weights);
}

/// The same for whole models: `lists` holds Parameters of the target's layout, or pointers to such.
/// Models in the memory of a device are averaged there.
///
/// The target's weights are written: tensors of roles average and ignore (which running averages
/// leave to training, but a merged model needs). Tensors of roles copy and frozen are left alone. A
/// tensor of the target may be the tensor of the same name in one of the lists. Inputs are read as
/// they are, also while an average is swapped in.
///
/// Throws as above, for lists of another layout (listing the differences), and std::logic_error
/// while an average is swapped into the target.
///
///     polyak::average_n(soup, {first, second, third}, std::array{0.5, 0.25, 0.25});
template <class Accumulator = void, ParameterScalar P, detail::SummedLists<P> Lists>
void average_n(const Parameters<P>& target, const Lists& lists, std::span<const double> weights) {
  const auto executor = detail::executor_of(target);
  detail::average_lists<Accumulator>(executor, target, lists, weights);
}
template <class Accumulator = void, ParameterScalar P>
void average_n(const Parameters<P>& target,
               std::initializer_list<std::type_identity_t<Parameters<P>>> lists,
               std::span<const double> weights) {
  const auto executor = detail::executor_of(target);
  detail::average_lists<Accumulator>(executor, target, std::span(lists.begin(), lists.size()),
                                     weights);
}

/// As above, on the given executor.
template <class Accumulator = void, class E, ParameterScalar P, detail::SummedLists<P> Lists>
requires(detail::StreamExecutor<E>) void average_n(E&& executor, const Parameters<P>& target,
                                                   const Lists& lists,
                                                   std::span<const double> weights) {
  detail::average_lists<Accumulator>(executor, target, lists, weights);
}
template <class Accumulator = void, class E, ParameterScalar P>
requires(detail::StreamExecutor<E>) void average_n(
    E&& executor, const Parameters<P>& target,
    std::initializer_list<std::type_identity_t<Parameters<P>>> lists,
    std::span<const double> weights) {
  detail::average_lists<Accumulator>(executor, target, std::span(lists.begin(), lists.size()),
                                     weights);
}

}  // namespace POLYAK_V0
}  // namespace polyak
