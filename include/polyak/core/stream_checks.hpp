// SPDX-License-Identifier: Apache-2.0
/// @file
/// The checks of sweeps over streams, for the host and for a device: the same tensors, the memory
/// of the executor, and outputs that overlap nothing.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/address_ranges.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The loops over streams for executors of type E: core/stream_sweep.hpp has those of the host,
/// which streams.hpp includes for the host's compiler; a device specialises this for its own.
template <class E>
struct StreamLoops {
  static_assert(always_false<E>,
                "polyak: sweeps in the host's memory are for files of the host's compiler, sweeps "
                "on a device for files that nvcc compiles and that include <polyak/cuda.hpp>");
};

/// An executor of the host, or of the device whose memory is `space()`.
template <class E>
concept StreamExecutor = Executor<E> || requires(E& executor) {
  executor.space();
};
/// The memory that an executor works on; null is the host's.
template <class E>
[[nodiscard]] const MemorySpace* space_of_executor(const E& executor) {
  if constexpr (requires { executor.space(); }) {
    return executor.space().get();
  } else {
    return nullptr;
  }
}

/// Stands for the executor of a call that names none: the calling thread, or the device of the
/// list.
struct ExecutorOfList {
  const Layout* layout;
  [[nodiscard]] const std::shared_ptr<MemorySpace>& space() const { return layout->space; }
};
template <class P>
[[nodiscard]] auto executor_of(const Parameters<P>& params) {
  if constexpr (on_device<P>) {
    return ExecutorOfList{params.layout().get()};
  } else {
    return serial;
  }
}

/// Takes all tensors: the default of sweeps.
struct AnyTensor {
  bool operator()(const TensorInfo&) const { return true; }
};

template <class E>
[[nodiscard]] std::size_t size_in(const Stream<E>& stream, std::size_t tensor) {
  return stream.layout() == nullptr ? stream.size() : stream.layout()->tensors[tensor].size;
}
template <class E>
[[nodiscard]] std::size_t tensors_of(const Stream<E>& stream) {
  return stream.layout() == nullptr ? 1 : stream.layout()->tensors.size();
}

/// Refuses streams that do not have the same tensors.
template <class A, class B>
void require_same_tensors(const Stream<A>& given, const Stream<B>& expected) {
  if (given.layout() == nullptr || expected.layout() == nullptr) {
    if (given.layout() != expected.layout()) {
      refuse_value("polyak: the streams of a sweep are lists or arrays, not both");
    }
    require(given.size() == expected.size(),
            "the arrays of a sweep must have " + text(expected.size()) +
                " elements, as its first output has",
            given.size());
    return;
  }
  if (given.layout() == expected.layout()) return;
  if (given.layout()->tensors == expected.layout()->tensors) return;
  const std::string list = differences(*given.layout(), *expected.layout());
  if (!list.empty()) refuse_value("polyak: the streams of a sweep differ: " + list);
}

[[noreturn]] POLYAK_COLD inline void refuse_overlap(std::string_view who, const std::string& other,
                                                    std::string_view tensor) {
  std::string where = other;
  if (!tensor.empty()) where.append(", tensor ").append(text(tensor));
  refuse_value(std::string("polyak: ")
                   .append(who)
                   .append(" must write over one of its inputs or apart from all of them; its "
                           "output overlaps ") +
               where);
}

/// Refuses an output that overlaps a part of an input, or another tensor of the input. `other`
/// describes the input in the message.
template <class Out, class In, class Sizes, class Words>
void require_apart(std::string_view who, const Stream<Out>& output, const Stream<const In>& input,
                   const Sizes& size_of, bool in_place, const Words& other) {
  constexpr std::size_t at_once = 512;  // on the stack
  const std::size_t tensors = tensors_of(output);
  for (std::size_t first = 0, last = 0; first < tensors; first = last) {
    AddressRanges<at_once> inputs;
    for (; last < tensors && !inputs.full(); ++last) {
      inputs.add(input[last], size_of(last) * scalar_bytes<In>);
    }
    inputs.order();
    for (std::size_t k = 0; k < tensors; ++k) {
      const Out* const to = output[k];
      const std::size_t bytes = size_of(k) * scalar_bytes<Out>;
      const bool same =
          in_place && std::same_as<In, Out> && static_cast<const void*>(input[k]) == to;
      // The tensors of one list do not overlap.
      if (bytes == 0 || same || !inputs.overlap(to, bytes)) continue;
      std::size_t i = first;
      while (size_of(i) == 0 || !overlap(to, bytes, input[i], size_of(i) * scalar_bytes<In>)) ++i;
      refuse_overlap(
          who, other(),
          output.layout() == nullptr ? std::string_view() : output.layout()->tensors[i].name);
    }
  }
}

/// Whether one of the tensors is written in the place where it is read.
template <class Out, class In, class Sizes>
[[nodiscard]] bool writes_in_place(const Stream<Out>& output, const Stream<const In>& input,
                                   const Sizes& size_of) {
  for (std::size_t k = 0; k < tensors_of(output); ++k) {
    if (size_of(k) != 0 && static_cast<const void*>(input[k]) == output[k]) return true;
  }
  return false;
}

/// Refuses outputs that overlap each other.
template <class... Out, class Sizes>
void require_outputs_apart(std::string_view who, const std::tuple<Stream<Out>...>& outputs,
                           const Sizes& size_of) {
  const auto pair = [&]<std::size_t I>(std::integral_constant<std::size_t, I>, const auto& other,
                                       std::size_t j) {
    const auto& one = std::get<I>(outputs);
    if (I >= j) return;
    require_apart(who, one, stream_of(other), size_of, false, [&] { return "output " + text(j); });
  };
  const auto all = [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto with = [&]<std::size_t J>(std::integral_constant<std::size_t, J>) {
      (pair(std::integral_constant<std::size_t, I>(), std::get<J>(outputs), J), ...);
    };
    (with(std::integral_constant<std::size_t, I>()), ...);
  };
  all(std::index_sequence_for<Out...>{});
}

/// Refuses a stream that is not in the memory of the executor, `space`. `name` describes it in the
/// message.
template <class E, class Name>
void require_in_space(std::string_view who, const MemorySpace* space, const Stream<E>& stream,
                      const Name& name) {
  if (stream.space() == space) return;
  if (stream.layout() == nullptr && stream.space() == nullptr) {  // an address of unknown memory
    if (stream.size() != 0) space->check(stream[0], name());
    return;
  }
  refuse_value("polyak: " + name().append(" of ").append(who) +
               " and the executor are in different memory");
}

/// Calls use(number, stream) with each stream.
template <class... S, class Use>
void each_stream(const std::tuple<S...>& streams, const Use& use) {
  std::apply(
      [&](const auto&... stream) {
        std::size_t number = 0;
        (use(number++, stream), ...);
      },
      streams);
}

/// The elements that a sweep takes from each tensor: all or none. Refers to its arguments.
template <class Outputs, class Inputs, class Takes>
[[nodiscard]] auto swept_sizes(const Outputs& outputs, const Inputs& inputs, const Takes& takes) {
  return [&](std::size_t k) {
    const auto& first = std::get<0>(outputs);
    bool taken = first.layout() == nullptr || takes(first.layout()->tensors[k]);
    const auto also = [&](std::size_t, const auto& stream) { taken = taken && stream.has(k); };
    each_stream(outputs, also);
    each_stream(inputs, also);
    return taken ? size_in(first, k) : 0;
  };
}

/// Checks the streams of a sweep; `in_place`: an output may be an input.
template <class... Out, class... In, class Sizes>
void check_sweep(const MemorySpace* space, const std::tuple<Stream<Out>...>& outputs,
                 const std::tuple<Stream<const In>...>& inputs, const Sizes& size_of,
                 bool in_place) {
  constexpr std::string_view who = "a sweep";
  const auto fits = [&](std::string_view kind) {
    return [&, kind](std::size_t number, const auto& stream) {
      require_same_tensors(stream, std::get<0>(outputs));
      require_in_space(who, space, stream, [&] { return std::string(kind) + text(number); });
    };
  };
  each_stream(outputs, fits("output "));
  each_stream(inputs, fits("input "));
  require_outputs_apart(who, outputs, size_of);
  each_stream(outputs, [&](std::size_t, const auto& output) {
    each_stream(inputs, [&](std::size_t number, const auto& input) {
      require_apart(who, output, input, size_of, in_place, [&] { return "input " + text(number); });
    });
  });
}

/// The elements that a merge takes from each tensor: all or none. Refers to its arguments.
template <class Out, std::size_t N, class Inputs, class Takes>
[[nodiscard]] auto merged_sizes(const std::array<Stream<Out>, N>& outputs, const Inputs& inputs,
                                const Takes& takes) {
  return [&](std::size_t k) {
    const Stream<Out>& first = outputs[0];
    bool taken = first.layout() == nullptr || takes(first.layout()->tensors[k]);
    for (const Stream<Out>& output : outputs) taken = taken && output.has(k);
    for (std::size_t i = 0; taken && i < inputs.size(); ++i) taken = inputs[i].has(k);
    return taken ? size_in(first, k) : 0;
  };
}

/// Checks the streams of a merge, which have the same tensors.
template <class Out, std::size_t N, class Inputs, class Sizes>
void check_merge(std::string_view who, const MemorySpace* space,
                 const std::array<Stream<Out>, N>& outputs, const Inputs& inputs,
                 const Sizes& size_of) {
  for (std::size_t o = 0; o < N; ++o) {
    require_in_space(who, space, outputs[o], [&] { return "output " + text(o); });
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    require_in_space(who, space, inputs[i], [&] { return "input " + text(i); });
  }
  for (std::size_t o = 0; o < N; ++o) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      require_apart(who, outputs[o], inputs[i], size_of, true, [&] { return "input " + text(i); });
    }
    for (std::size_t other = 0; other < o; ++other) {
      require_apart(who, outputs[o], stream_of(outputs[other]), size_of, false,
                    [&] { return "output " + text(other); });
    }
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
