// SPDX-License-Identifier: Apache-2.0
/// @file
/// average_n: the weighted sum of any number of models, in one pass over memory.
///
///   out = w_0 x_0 + w_1 x_1 + ... + w_(N-1) x_(N-1)
///
/// Computed as sum = w_0 x_0, then sum = fma(w_k, x_k, sum) in the order of the inputs, in the type
/// of the accumulator, into which the weights are rounded first. The sum is rounded once, to
/// nearest even, when it is stored (one of doubles reaches 16 bits through float, as everywhere).
/// Every input is read once, and the output written once, without being read: past the caches where
/// it would not fit there. Nothing is allocated.
#pragma once

#include <initializer_list>
#include <span>
#include <type_traits>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/sum.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace v0 {

/// out = the sum of weights[k] * inputs[k], in one pass: see the head of this file.
///
/// `out` is a span, std::vector or std::array; `inputs` one of spans and the like, or of pointers
/// to as many elements as `out` has. Numbers are float, double, Eigen::half or Eigen::bfloat16, and
/// inputs may be of another type than the output. `Accumulator` is float or double; unless given,
/// double where a double is read or written, else float.
///
/// `out` may be one of the inputs. Any finite weights will do, negative ones too; they need not sum
/// to 1. NaN and infinity propagate as IEEE 754 says, also from inputs of weight 0.
///
/// Throws std::invalid_argument, before anything is written, without inputs, for another number of
/// weights than of inputs, a weight that is not finite in the accumulator's type (naming index and
/// value), inputs of another size than the output, or an output that overlaps an input otherwise.
///
///     polyak::average_n(soup, std::array{a.data(), b.data()}, std::array{0.5, 0.5});
template <class Accumulator = void, detail::SumTarget Out, detail::SummedMemory Inputs>
void average_n(Out&& out, const Inputs& inputs, std::span<const double> weights) {
  detail::average_memory<Accumulator>(serial, out, inputs, weights);
}

/// As above, on the executor given. The result does not depend, in any bit, on how it splits the
/// elements.
template <class Accumulator = void, class E, detail::SumTarget Out, detail::SummedMemory Inputs>
requires Executor<E>
void average_n(E&& executor, Out&& out, const Inputs& inputs, std::span<const double> weights) {
  detail::average_memory<Accumulator>(executor, out, inputs, weights);
}

/// The same for whole models: `lists` holds Parameters of the target's layout, or pointers to such.
///
/// The target's weights are written: tensors of roles average and ignore (which running averages
/// leave to training, but a merged model needs). Buffers, of role copy, are left alone. A tensor of
/// the target may be its namesake in one of the lists. Inputs are read as they are, also while an
/// average is swapped in.
///
/// Throws as above, for lists of another layout (listing the differences), and std::logic_error
/// while an average is swapped into the target.
///
///     polyak::average_n(soup, {first, second, third}, std::array{0.5, 0.25, 0.25});
template <class Accumulator = void, ParameterScalar P, detail::SummedLists<P> Lists>
void average_n(const Parameters<P>& target, const Lists& lists, std::span<const double> weights) {
  detail::average_lists<Accumulator>(serial, target, lists, weights);
}
template <class Accumulator = void, ParameterScalar P>
void average_n(const Parameters<P>& target,
               std::initializer_list<std::type_identity_t<Parameters<P>>> lists,
               std::span<const double> weights) {
  detail::average_lists<Accumulator>(serial, target, std::span(lists.begin(), lists.size()),
                                     weights);
}

/// As above, on the executor given.
template <class Accumulator = void, class E, ParameterScalar P, detail::SummedLists<P> Lists>
requires Executor<E>
void average_n(E&& executor, const Parameters<P>& target, const Lists& lists,
               std::span<const double> weights) {
  detail::average_lists<Accumulator>(executor, target, lists, weights);
}
template <class Accumulator = void, class E, ParameterScalar P>
requires Executor<E>
void average_n(E&& executor, const Parameters<P>& target,
               std::initializer_list<std::type_identity_t<Parameters<P>>> lists,
               std::span<const double> weights) {
  detail::average_lists<Accumulator>(executor, target, std::span(lists.begin(), lists.size()),
                                     weights);
}

}  // namespace v0
}  // namespace polyak
