// SPDX-License-Identifier: Apache-2.0
/// @file
/// The work of one thread of a grid: plain functions for host and device, so that they can be
/// tested without a device.
///
/// A block takes a chunk: some consecutive elements of one tensor, found in a table. A thread takes
/// tiles of N elements, where N numbers of the narrowest type are 16 bytes. It loads each stream's
/// tile by 16-byte loads, applies all laws to each element, and stores. Slots begin at multiples of
/// 64 bytes and are padded, so no tile starts unaligned in a slot and the last tile of a slot is
/// whole. Parameters and gradients that are not at multiples of 16 bytes, or that end within a
/// tile, are read and written element by element.
///
/// Above 300 lines: everything that runs on the device for a sweep, so that it can be tested
/// without one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/gradient_factor.hpp>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>

// Lanes stay in registers only where their numbers are constants.
#if defined(__CUDA_ARCH__)  // the host's compiler does not know the pragma
#define POLYAK_UNROLL _Pragma("unroll")
#else
#define POLYAK_UNROLL
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

using polyak::detail::carrier_t;
using polyak::detail::Number;
using polyak::detail::RandomKey;
using polyak::detail::scalar_bytes;

inline constexpr unsigned block_threads = 256;
inline constexpr std::size_t tiles_per_thread = 4;  ///< in a chunk

// ---- the table --------------------------------------------------------------------------------

/// A chunk: elements from `begin` on of the tensor in row `row`.
struct Chunk {
  std::uint64_t row, begin;
};

/// A row: one tensor in a sweep of R laws.
template <std::size_t R>
struct Row {
  void* x;
  std::uint64_t size;
  std::uint64_t tensor;                   ///< its number in the list
  std::uint64_t offsets[R == 0 ? 1 : R];  ///< of its elements in the slots of each law
};

template <std::size_t R>
struct Table {
  const Chunk* chunks;
  const Row<R>* rows;
  const void* const* gradients;  ///< of each row
};

// ---- laws -------------------------------------------------------------------------------------

/// A bound law as a kernel argument: std::tuple and std::array have no functions for a device.
template <class R>
struct DeviceLaw {
  using Host = R;
  typename R::Law law;           ///< for all rows, unless there is a table
  const typename R::Law* table;  ///< null: none
  const std::uint32_t* which;    ///< the law of each row in the table
  typename R::State* slots[R::arrays == 0 ? 1 : R::arrays];
  typename R::Key key;
};

template <class... R>
struct Chain {
  static constexpr std::size_t size = 0;
};
template <class First, class... Rest>
struct Chain<First, Rest...> {
  static constexpr std::size_t size = 1 + sizeof...(Rest);
  DeviceLaw<First> first;
  Chain<Rest...> rest;
};

// ---- memory -----------------------------------------------------------------------------------

struct alignas(16) Sixteen {
  std::uint32_t words[4];
};

POLYAK_LAW Sixteen load_sixteen(const void* from) {
#if defined(__CUDA_ARCH__)
  const uint4 v = __ldcg(static_cast<const uint4*>(from));
  return {{v.x, v.y, v.z, v.w}};
#else
  Sixteen value;
  std::memcpy(&value, __builtin_assume_aligned(from, 16), 16);
  return value;
#endif
}
POLYAK_LAW void store_sixteen(void* to, const Sixteen& value) {
#if defined(__CUDA_ARCH__)
  __stcg(static_cast<uint4*>(to),
         make_uint4(value.words[0], value.words[1], value.words[2], value.words[3]));
#else
  std::memcpy(__builtin_assume_aligned(to, 16), &value, 16);
#endif
}

[[nodiscard]] POLYAK_LAW bool is_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

[[nodiscard]] POLYAK_LAW float float_from(const Eigen::half*, std::uint16_t bits) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return polyak::detail::float_from_half(bits);
#endif
}
[[nodiscard]] POLYAK_LAW float float_from(const Eigen::bfloat16*, std::uint16_t bits) {
  return polyak::detail::float_from_bfloat16(bits);
}
[[nodiscard]] POLYAK_LAW std::uint16_t bits_from(const Eigen::half*, float value) {
#if defined(__CUDA_ARCH__)
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  return polyak::detail::half_from_float(value);
#endif
}
[[nodiscard]] POLYAK_LAW std::uint16_t bits_from(const Eigen::bfloat16*, float value) {
  return polyak::detail::bfloat16_from_float(value);
}
[[nodiscard]] POLYAK_LAW std::uint16_t bits_from(const Eigen::half*, float value,
                                                 std::uint32_t random) {
  return polyak::detail::half_from_float(value, random);
}
[[nodiscard]] POLYAK_LAW std::uint16_t bits_from(const Eigen::bfloat16*, float value,
                                                 std::uint32_t random) {
  return polyak::detail::bfloat16_from_float(value, random);
}

/// The type of S in device memory: Eigen's types are not complete here.
template <class S>
using raw_t = std::conditional_t<scalar_bytes<S> == 2, std::uint16_t,
                                 std::conditional_t<scalar_bytes<S> == 4, float, double>>;

template <class S>
[[nodiscard]] POLYAK_LAW carrier_t<S> widened(raw_t<S> value) {
  if constexpr (scalar_bytes<S> == 2) {
    return float_from(static_cast<const S*>(nullptr), value);
  } else {
    return value;
  }
}
template <class S>
[[nodiscard]] POLYAK_LAW raw_t<S> narrowed(carrier_t<S> value) {
  if constexpr (scalar_bytes<S> == 2) {
    return bits_from(static_cast<const S*>(nullptr), value);
  } else {
    return value;
  }
}

/// A gradient as a step reads it.
template <class C>
[[nodiscard]] POLYAK_LAW C read_gradient(C gradient, C scale, C limit) {
  using V = Number<C>;
  V read(gradient);
  polyak::detail::read_gradient(read, V(scale), V(limit), V(-limit), true);
  return read.value;
}

/// N numbers of type S in registers, in the format of memory.
template <class S, int N>
struct Lanes {
  static constexpr int vectors = N * static_cast<int>(scalar_bytes<S>) / 16;
  raw_t<S> raw[static_cast<std::size_t>(N)];

  /// For addresses at a multiple of 16 bytes.
  POLYAK_LAW void load(const void* data, std::size_t at) {
    const auto* const from = static_cast<const raw_t<S>*>(data) + at;
    for (int k = 0; k < vectors; ++k) {
      const Sixteen value = load_sixteen(from + k * (N / vectors));
      memcpy(raw + k * (N / vectors), &value, 16);
    }
  }
  POLYAK_LAW void store(void* data, std::size_t at) const {
    auto* const to = static_cast<raw_t<S>*>(data) + at;
    for (int k = 0; k < vectors; ++k) {
      Sixteen value;
      memcpy(&value, raw + k * (N / vectors), 16);
      store_sixteen(to + k * (N / vectors), value);
    }
  }
  /// For the first `count` numbers, at any address.
  POLYAK_LAW void load_some(const void* data, std::size_t at, std::size_t count) {
    const auto* const from = static_cast<const raw_t<S>*>(data) + at;
    for (int k = 0; k < N; ++k) {
      raw[k] = static_cast<std::size_t>(k) < count ? from[k] : raw_t<S>(0);
    }
  }
  POLYAK_LAW void store_some(void* data, std::size_t at, std::size_t count) const {
    auto* const to = static_cast<raw_t<S>*>(data) + at;
    for (int k = 0; k < N; ++k) {
      if (static_cast<std::size_t>(k) < count) to[k] = raw[k];
    }
  }
};

// ---- how slots keep values: the storages of core/storage.hpp, lane by lane --------------------

template <class Storage>
struct LaneStorage;

template <class S>
struct LaneStorage<polyak::detail::Plain<S>> {
  using Value = Number<carrier_t<S>>;
  template <int N>
  POLYAK_LAW static Value get(const Lanes<S, N>* lanes, int k) {
    return widened<S>(lanes[0].raw[k]);
  }
  template <int N>
  POLYAK_LAW static void put(Lanes<S, N>* lanes, int k, const Value& value, std::uint32_t) {
    lanes[0].raw[k] = narrowed<S>(value.value);
  }
};

template <class S>
struct LaneStorage<polyak::detail::Kahan<S>> {
  static constexpr bool sixteen = scalar_bytes<S> == 2;
  using Value =
      std::conditional_t<sixteen, Number<float>, polyak::detail::Compensated<Number<carrier_t<S>>>>;
  template <int N>
  POLYAK_LAW static Value get(const Lanes<S, N>* lanes, int k) {
    const Number<carrier_t<S>> high(widened<S>(lanes[0].raw[k])), low(widened<S>(lanes[1].raw[k]));
    if constexpr (sixteen) {
      return high - low;
    } else {
      return {high, low};
    }
  }
  template <int N>
  POLYAK_LAW static void put(Lanes<S, N>* lanes, int k, const Value& value, std::uint32_t) {
    if constexpr (sixteen) {
      lanes[0].raw[k] = narrowed<S>(value.value);
      const Number<float> rounded(widened<S>(lanes[0].raw[k]));
      lanes[1].raw[k] = narrowed<S>(if_zero(rounded - rounded, rounded - value, 0).value);
    } else {
      lanes[0].raw[k] = value.high.value;
      lanes[1].raw[k] = value.low.value;
    }
  }
};

template <class S>
struct LaneStorage<polyak::detail::Stochastic<S>> : LaneStorage<polyak::detail::Plain<S>> {
  template <int N>
  POLYAK_LAW static void put(Lanes<S, N>* lanes, int k, const Number<float>& value,
                             std::uint32_t random) {
    lanes[0].raw[k] = bits_from(static_cast<const S*>(nullptr), value.value, random);
  }
};

template <class S, class P>
struct LaneStorage<polyak::detail::KeptWeights<S, P>> : LaneStorage<polyak::detail::Plain<S>> {};

/// The random bits of eight elements that begin at a multiple of 8: 16 bytes of RandomBits; in the
/// second half of a group, the bytes one further.
struct EightRandoms {
  std::uint64_t segments[3];  ///< eight bytes each
  bool shifted;

  POLYAK_LAW EightRandoms(const RandomKey& key, std::size_t at) {
    const std::size_t in_group = at % polyak::detail::RandomBits::group;
    const std::uint64_t group = at / polyak::detail::RandomBits::group;
    shifted = in_group >= 64;
    const unsigned first = static_cast<unsigned>(in_group % 64 / 4);
    for (unsigned k = 0; k < 3; ++k) {
      if (k == 2 && !shifted) {
        segments[k] = 0;
        break;
      }
      const unsigned segment = (first + k) % 16;
      const auto words =
          philox4x32<RandomKey::rounds>(key.counter(8 * group + segment % 8), key.key());
      segments[k] = segment < 8 ? words[0] | std::uint64_t{words[1]} << 32
                                : words[2] | std::uint64_t{words[3]} << 32;
    }
  }
  [[nodiscard]] POLYAK_LAW std::uint32_t of(int k) const {
    const std::uint64_t here = segments[k / 4] >> (16 * (k % 4));
    const std::uint64_t next = k % 4 == 3 ? segments[k / 4 + 1] << 8 : 0;
    const std::uint64_t bits = shifted ? (here >> 8 | next) : here;
    return static_cast<std::uint32_t>(bits & 0xffff);
  }
};

// ---- a tile -----------------------------------------------------------------------------------

template <class R>
struct LawLanes {
  using Host = R;
  using S = typename R::State;
  using Storage = LaneStorage<typename R::Storage>;
  static constexpr int arrays = R::Storage::arrays;
};

/// The lanes of what a law keeps of its weights; nothing for most laws.
template <class Storage, int N>
struct RestLanes {
  static constexpr std::size_t bytes = 0;
  template <class Key>
  POLYAK_LAW void load(const Key&, std::size_t) {}
  template <class Key>
  POLYAK_LAW void store(const Key&, std::size_t) const {}
};
template <polyak::detail::KeepsWeights Storage, int N>
struct RestLanes<Storage, N> {
  using P = typename Storage::Weight;
  static constexpr std::size_t bytes = scalar_bytes<P>;
  Lanes<P, N> lanes;
  template <class Key>
  POLYAK_LAW void load(const Key& key, std::size_t at) {
    if (key.rests != nullptr) lanes.load(key.rests, at);
  }
  template <class Key>
  POLYAK_LAW void store(const Key& key, std::size_t at) const {
    if (key.rests != nullptr && key.reads == 0) lanes.store(key.rests, at);
  }
};

/// The lanes of all slots of all laws.
template <int N, class... R>
struct SlotLanes {};
template <int N, class First, class... Rest>
struct SlotLanes<N, First, Rest...> {
  Lanes<typename First::State, N> lanes[First::arrays == 0 ? 1 : First::arrays];
  RestLanes<typename First::Storage, N> of_weights;
  SlotLanes<N, Rest...> rest;
};

template <class T, class... R>
struct GridSweep {
  static constexpr std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }
  static constexpr std::size_t narrowest() {
    std::size_t bytes = scalar_bytes<T>;
    ((bytes = least(bytes, scalar_bytes<typename R::State>)), ...);
    return bytes;
  }
  static constexpr int N = static_cast<int>(16 / narrowest());
  static constexpr bool any_reads_gradient = (polyak::reads_gradient<typename R::Law> || ...);
  static constexpr bool any_writes_parameter = (polyak::writes_parameter<typename R::Law> || ...);
  /// Elements of a chunk.
  static constexpr std::size_t chunk =
      static_cast<std::size_t>(N) * block_threads * tiles_per_thread;
  /// Number of registers of a tile. Two tiles at once keep more loads in flight.
  static constexpr std::size_t words =
      static_cast<std::size_t>(N) *
      (scalar_bytes<T> * (any_reads_gradient ? 2 : 1) +
       (std::size_t{0} + ... +
        (static_cast<std::size_t>(R::arrays) * scalar_bytes<typename R::State> +
         RestLanes<typename R::Storage, N>::bytes))) /
      4;
  /// Scalars of type double need registers, too.
  static constexpr std::size_t tiles_at_once = words <= (scalar_bytes<T> == 8 ? 20 : 24) ? 2 : 1;

  using Laws = Chain<R...>;
  /// The laws of a step, and how its gradients are read.
  struct Arguments {
    Laws laws;
    carrier_t<T> scale, limit;
    double exact_scale;         ///< not rounded, for use with the coefficient
    const double* coefficient;  ///< of clipping, multiplies the scale; null: none
    bool open;                  ///< whether settle() has anything to do

    /// Reads values from memory: the laws of a row, and the coefficient of the scale.
    POLYAK_LAW void settle(std::uint64_t row) {
      settle(laws, row);
      if (coefficient != nullptr) scale = static_cast<carrier_t<T>>(exact_scale * *coefficient);
    }
    [[nodiscard]] POLYAK_LAW carrier_t<T> read(carrier_t<T> gradient) const {
      return read_gradient(gradient, scale, limit);
    }

   private:
    template <class First, class... Rest>
    POLYAK_LAW static void settle(Chain<First, Rest...>& chain, std::uint64_t row) {
      if (chain.first.table != nullptr) chain.first.law = chain.first.table[chain.first.which[row]];
      settle(chain.rest, row);
    }
    POLYAK_LAW static void settle(Chain<>&, std::uint64_t) {}
  };
  using RowType = Row<sizeof...(R)>;

  struct Tile {
    Lanes<T, N> x, gradient;
    SlotLanes<N, R...> slots;
  };

  // ---- slots of one law after the other

  template <std::size_t I, class First, class... Rest>
  POLYAK_LAW static void load_slots(const Chain<First, Rest...>& laws, const RowType& row,
                                    std::size_t at, SlotLanes<N, First, Rest...>& to) {
    for (int a = 0; a < First::arrays; ++a) {
      to.lanes[a].load(laws.first.slots[a], row.offsets[I] + at);
    }
    to.of_weights.load(laws.first.key, row.offsets[I] + at);
    load_slots<I + 1>(laws.rest, row, at, to.rest);
  }
  template <std::size_t I>
  POLYAK_LAW static void load_slots(const Chain<>&, const RowType&, std::size_t, SlotLanes<N>&) {}

  template <std::size_t I, class First, class... Rest>
  POLYAK_LAW static void store_slots(const Chain<First, Rest...>& laws, const RowType& row,
                                     std::size_t at, const SlotLanes<N, First, Rest...>& from) {
    constexpr int written = written_slots<typename First::Law>;
    if constexpr (written > 0) {
      for (int a = 0; a < First::arrays / slot_count<typename First::Law> * written; ++a) {
        from.lanes[a].store(laws.first.slots[a], row.offsets[I] + at);
      }
    }
    from.of_weights.store(laws.first.key, row.offsets[I] + at);
    store_slots<I + 1>(laws.rest, row, at, from.rest);
  }
  template <std::size_t I>
  POLYAK_LAW static void store_slots(const Chain<>&, const RowType&, std::size_t,
                                     const SlotLanes<N>&) {}

  // ---- one law on all lanes

  template <class First, std::size_t... K>
  POLYAK_LAW static void lane(const DeviceLaw<First>& bound, carrier_t<T>& x, carrier_t<T> gradient,
                              Lanes<typename First::State, N>* slots,
                              [[maybe_unused]] RestLanes<typename First::Storage, N>& of_weights,
                              int k, std::uint32_t random, std::index_sequence<K...>) {
    using One = LawLanes<First>;
    using C = carrier_t<typename First::State>;
    using V = Number<C>;
    using Law = typename First::Law;
    typename One::Storage::Value values[sizeof...(K) == 0 ? 1 : sizeof...(K)] = {
        One::Storage::get(slots + K * One::arrays, k)...};
    constexpr bool keeps = polyak::detail::KeepsWeights<typename First::Storage>;
    V parameter;
    if constexpr (keeps) {
      parameter = polyak::detail::read_weight<C>(bound.key, x, of_weights.lanes.raw + k);
    } else {
      parameter = static_cast<C>(x);
    }
    if constexpr (reads_gradient<Law>) {
      const V g(static_cast<C>(gradient));
      bound.law(parameter, g, values[K]...);
    } else {
      bound.law(parameter, values[K]...);
    }
    if constexpr (keeps) {
      x = polyak::detail::write_weight(bound.key, parameter.value, of_weights.lanes.raw + k,
                                       random);
    } else if constexpr (writes_parameter<Law>) {
      x = static_cast<carrier_t<T>>(parameter.value);
      // The next law gets the rounded value.
      if constexpr (scalar_bytes<T> == 2) x = widened<T>(narrowed<T>(x));
    }
    if constexpr (written_slots<Law> != 0) {
      (One::Storage::put(slots + K * One::arrays, k, values[K], random), ...);
    }
  }

  template <class First>
  static constexpr bool may_round_at_random =
      polyak::detail::KeepsWeights<typename First::Storage> ? scalar_bytes<T> == 2
                                                            : !std::is_empty_v<typename First::Key>;
  [[nodiscard]] POLYAK_LAW static bool rounds_at_random(const RandomKey&) { return true; }
  [[nodiscard]] POLYAK_LAW static bool rounds_at_random(const polyak::detail::WeightKey<T>& key) {
    return key.is(Accumulate::stochastic);
  }
  [[nodiscard]] POLYAK_LAW static RandomKey key_of(RandomKey key, const RowType& row) {
    key.tensor = row.tensor;
    return key;
  }
  [[nodiscard]] POLYAK_LAW static RandomKey key_of(const polyak::detail::WeightKey<T>& key,
                                                   const RowType& row) {
    return key_of(key.random, row);
  }

  template <class First, class... Rest>
  POLYAK_LAW static void apply(const Chain<First, Rest...>& laws, const RowType& row,
                               std::size_t at, carrier_t<T>* x, const carrier_t<T>* gradient,
                               SlotLanes<N, First, Rest...>& slots) {
    constexpr auto all =
        std::make_index_sequence<static_cast<std::size_t>(slot_count<typename First::Law>)>{};
    if constexpr (may_round_at_random<First>) {
      if (rounds_at_random(laws.first.key)) {
        const EightRandoms random(key_of(laws.first.key, row), at);
        POLYAK_UNROLL
        for (int k = 0; k < N; ++k) {
          lane(laws.first, x[k], gradient[k], slots.lanes, slots.of_weights, k, random.of(k), all);
        }
        return apply(laws.rest, row, at, x, gradient, slots.rest);
      }
    }
    POLYAK_UNROLL
    for (int k = 0; k < N; ++k) {
      lane(laws.first, x[k], gradient[k], slots.lanes, slots.of_weights, k, 0, all);
    }
    apply(laws.rest, row, at, x, gradient, slots.rest);
  }
  POLYAK_LAW static void apply(const Chain<>&, const RowType&, std::size_t, carrier_t<T>*,
                               const carrier_t<T>*, SlotLanes<N>&) {}

  // ---- a tile

  POLYAK_LAW static void load(const RowType& row, const void* gradient, const Laws& laws,
                              std::size_t at, bool x_aligned, bool gradient_aligned, Tile& tile) {
    const std::size_t rest = static_cast<std::size_t>(row.size) - at;
    const bool whole = rest >= static_cast<std::size_t>(N);
    if (whole && x_aligned) {
      tile.x.load(row.x, at);
    } else {
      tile.x.load_some(row.x, at, rest);
    }
    if constexpr (any_reads_gradient) {
      if (whole && gradient_aligned) {
        tile.gradient.load(gradient, at);
      } else {
        tile.gradient.load_some(gradient, at, rest);
      }
    } else {
      for (int k = 0; k < N; ++k) tile.gradient.raw[k] = raw_t<T>(0);
    }
    load_slots<0>(laws, row, at, tile.slots);
  }

  POLYAK_LAW static void apply(const RowType& row, const Arguments& arguments, std::size_t at,
                               Tile& tile) {
    carrier_t<T> x[static_cast<std::size_t>(N)], gradient[static_cast<std::size_t>(N)];
    for (int k = 0; k < N; ++k) {
      x[k] = widened<T>(tile.x.raw[k]);
      gradient[k] =
          any_reads_gradient ? arguments.read(widened<T>(tile.gradient.raw[k])) : carrier_t<T>(0);
    }
    apply(arguments.laws, row, at, x, gradient, tile.slots);
    if constexpr (any_writes_parameter) {
      for (int k = 0; k < N; ++k) tile.x.raw[k] = narrowed<T>(x[k]);
    }
  }

  POLYAK_LAW static void store(const RowType& row, const Laws& laws, std::size_t at, bool x_aligned,
                               const Tile& tile) {
    store_slots<0>(laws, row, at, tile.slots);
    if constexpr (any_writes_parameter) {
      const std::size_t rest = static_cast<std::size_t>(row.size) - at;
      if (rest >= static_cast<std::size_t>(N) && x_aligned) {
        tile.x.store(row.x, at);
      } else {
        tile.x.store_some(row.x, at, rest);
      }
    }
  }

  /// Processes the share of thread `thread` of `threads` of a row's elements from `begin` on.
  POLYAK_LAW static void thread(const RowType& row, const void* gradient,
                                const Arguments& arguments, std::size_t begin, unsigned thread,
                                unsigned threads) {
    const std::size_t end =
        begin + chunk < row.size ? begin + chunk : static_cast<std::size_t>(row.size);
    const bool x_aligned = is_aligned(row.x), gradient_aligned = is_aligned(gradient);
    const std::size_t stride = static_cast<std::size_t>(threads) * static_cast<std::size_t>(N);
    for (std::size_t at = begin + static_cast<std::size_t>(thread) * static_cast<std::size_t>(N);
         at < end; at += tiles_at_once * stride) {
      Tile tiles[tiles_at_once];
      load(row, gradient, arguments.laws, at, x_aligned, gradient_aligned, tiles[0]);
      if constexpr (tiles_at_once == 2) {
        if (at + stride < end) {
          load(row, gradient, arguments.laws, at + stride, x_aligned, gradient_aligned, tiles[1]);
        }
      }
      apply(row, arguments, at, tiles[0]);
      store(row, arguments.laws, at, x_aligned, tiles[0]);
      if constexpr (tiles_at_once == 2) {
        if (at + stride < end) {
          apply(row, arguments, at + stride, tiles[1]);
          store(row, arguments.laws, at + stride, x_aligned, tiles[1]);
        }
      }
    }
  }
};

// ---- kernels: objects that a thread calls with the numbers of its block and itself -------------

/// One sweep. The arguments come with the launch; in a captured graph, from the place where they
/// are written before each replay. It does nothing if one of the marks is set.
template <class T, class... R>
struct SweepKernel {
  using Sweep = GridSweep<T, R...>;
  using Arguments = typename Sweep::Arguments;
  Table<sizeof...(R)> table;
  const Arguments* written;  ///< null: use `arguments`
  const unsigned* skip[2];   ///< null: none
  Arguments arguments;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    for (const unsigned* const mark : skip) {
      if (mark != nullptr && *mark != 0) return;
    }
    const Chunk chunk = table.chunks[block];
    const Row<sizeof...(R)> row = table.rows[chunk.row];
    const void* const gradient = Sweep::any_reads_gradient ? table.gradients[chunk.row] : nullptr;
    const auto begin = static_cast<std::size_t>(chunk.begin);
    if (written == nullptr && !arguments.open) {
      Sweep::thread(row, gradient, arguments, begin, thread, threads);
    } else {
      Arguments now = written == nullptr ? arguments : *written;
      if (now.open) now.settle(chunk.row);
      Sweep::thread(row, gradient, static_cast<const Arguments&>(now), begin, thread, threads);
    }
  }
};

/// Sets a mark if a number is a NaN or an infinity: x * 0 is then NaN, and a NaN persists. Of
/// gradients, also if one is larger, as a step reads it, than the number in `offsets` of its row.
template <class T>
struct FiniteKernel {
  Table<0> table;
  bool of_gradients;
  unsigned* mark;
  double scale = 1, limit = 0;          ///< of gradients
  const double* coefficient = nullptr;  ///< multiplies the scale; null means 1
  static constexpr int N = static_cast<int>(16 / scalar_bytes<T>);
  static constexpr std::size_t chunk =
      static_cast<std::size_t>(N) * block_threads * tiles_per_thread;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const Chunk here = table.chunks[block];
    const Row<0> row = table.rows[here.row];
    const void* const data = of_gradients ? table.gradients[here.row] : row.x;
    const auto begin = static_cast<std::size_t>(here.begin),
               size = static_cast<std::size_t>(row.size);
    const std::size_t end = begin + chunk < size ? begin + chunk : size;
    const auto step = static_cast<std::size_t>(N);
    const bool aligned = is_aligned(data);
    carrier_t<T> factor = 1;
    if (of_gradients) {
      double most;
      std::memcpy(&most, row.offsets, sizeof most);
      const double times = coefficient == nullptr ? scale : scale * *coefficient;
      factor = polyak::detail::overflow_factor<carrier_t<T>>(most, times, limit);
    }
    Number<carrier_t<T>> sum(0);
    for (std::size_t at = begin + thread * step; at < end; at += threads * step) {
      Lanes<T, N> lanes;
      if (aligned && size - at >= step) {
        lanes.load(data, at);
      } else {
        lanes.load_some(data, at, size - at);
      }
      for (int k = 0; k < N; ++k) sum = fma(widened<T>(lanes.raw[k]) * factor, 0, sum);
    }
    if (!(sum.value == 0)) *mark = 1;
  }
};

/// Copies pieces of memory: to x of each row, from its gradient; sizes are in bytes.
struct CopyKernel {
  Table<0> table;
  const unsigned* skip[2];
  static constexpr std::size_t chunk = std::size_t{16} * block_threads * tiles_per_thread;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    for (const unsigned* const mark : skip) {
      if (mark != nullptr && *mark != 0) return;
    }
    const Chunk here = table.chunks[block];
    const Row<0> row = table.rows[here.row];
    auto* const to = static_cast<unsigned char*>(row.x);
    const auto* const from = static_cast<const unsigned char*>(table.gradients[here.row]);
    const auto begin = static_cast<std::size_t>(here.begin),
               size = static_cast<std::size_t>(row.size);
    const std::size_t end = begin + chunk < size ? begin + chunk : size;
    const bool aligned = is_aligned(to) && is_aligned(from);
    for (std::size_t at = begin + thread * std::size_t{16}; at < end;
         at += threads * std::size_t{16}) {
      if (aligned && size - at >= 16) {
        store_sixteen(to + at, load_sixteen(from + at));
      } else {
        for (std::size_t k = at; k < size && k < at + 16; ++k) to[k] = from[k];
      }
    }
  }
};

/// Writes words that are arguments of the launch. Tables and scalars so reach the device in the
/// order of the stream, without a copy from the host's memory.
struct WriteKernel {
  static constexpr std::size_t capacity = 440;  ///< all arguments fit 4 KiB
  std::uint64_t* to;
  std::size_t count;
  std::uint64_t words[capacity];

  POLYAK_LAW void operator()(unsigned, unsigned thread, unsigned threads) const {
    for (std::size_t k = thread; k < count; k += threads) to[k] = words[k];
  }
};

/// Reports the marks of a step to the host, and clears them for the next step.
struct ReportKernel {
  unsigned* marks;          ///< three
  volatile unsigned* host;  ///< three, in the host's memory

  POLYAK_LAW void operator()(unsigned, unsigned thread, unsigned) const {
    if (thread != 0) return;
    for (int k = 0; k < 3; ++k) {
      host[k] = marks[k];
      marks[k] = 0;
    }
  }
};

}  // namespace detail
}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
