// SPDX-License-Identifier: Apache-2.0
#include "limit.hpp"

#include <math.h>

#include <utility>

#include "simd.hpp"

// A separate file, compiled for this machine whatever the rest of the program is compiled for: the
// limit is the machine's. It includes nothing whose inline functions the rest could share.

namespace polyak_bench {
namespace {

constexpr double beta1 = 0.9, beta2 = 0.999, beta3 = 0.9999, alpha = 5, epsilon = 1e-8;
constexpr double lion_beta1 = 0.9, lion_beta2 = 0.99;
constexpr double schedule_free_beta = 0.9;

POLYAK_LIMIT_INLINE Vector constant(double value) { return spread(static_cast<float>(value)); }

double root_scale(const LimitState& state) { return 1 / ::sqrt(1 - state.beta2_power); }

// Each law: its constants, and the update of one vector of the parameters x, given that of the
// gradients g, with the slots s.

struct None {
  static constexpr std::size_t slots = 0;
  static constexpr bool optimizes = false;
  explicit None(const LimitState&) {}
};

struct SgdPlain {
  static constexpr std::size_t slots = 0;
  static constexpr bool optimizes = true;
  Vector minus_step;
  explicit SgdPlain(const LimitState& state) : minus_step(constant(-state.learning_rate)) {}
  POLYAK_LIMIT_INLINE void operator()(Vector& x, Vector g, Vector*) const {
    x = fma(minus_step, g, x);
  }
};

struct Sgd {
  static constexpr std::size_t slots = 1;
  static constexpr bool optimizes = true;
  Vector momentum, minus_step;  // the buffer begins as zeros, so that the first step copies g
  explicit Sgd(const LimitState& state)
      : momentum(constant(sgd_momentum)), minus_step(constant(-state.learning_rate)) {}
  POLYAK_LIMIT_INLINE void operator()(Vector& x, Vector g, Vector* s) const {
    s[0] = fma(momentum, s[0], g);
    x = fma(minus_step, s[0], x);
  }
};

template <bool Amsgrad>
struct Adam {
  static constexpr std::size_t slots = Amsgrad ? 3 : 2;
  static constexpr bool optimizes = true;
  Vector b1, one_minus_b1, b2, one_minus_b2, scale, eps, minus_step, shrink;
  explicit Adam(const LimitState& state)
      : b1(constant(beta1)),
        one_minus_b1(constant(1 - beta1)),
        b2(constant(beta2)),
        one_minus_b2(constant(1 - beta2)),
        scale(constant(root_scale(state))),
        eps(constant(epsilon)),
        minus_step(constant(-state.learning_rate / (1 - state.beta1_power))),
        shrink(constant(1 - state.learning_rate * (Amsgrad ? 0 : adamw_weight_decay))) {}
  POLYAK_LIMIT_INLINE void operator()(Vector& x, Vector g, Vector* s) const {
    s[0] = fma(b1, s[0], one_minus_b1 * g);
    s[1] = fma(b2, s[1], one_minus_b2 * g * g);
    if constexpr (Amsgrad) s[2] = max(s[2], s[1]);
    x = fma(minus_step, s[0] / fma(sqrt(s[slots - 1]), scale, eps), shrink * x);
  }
};

struct Lion {
  static constexpr std::size_t slots = 1;
  static constexpr bool optimizes = true;
  Vector b1, one_minus_b1, b2, one_minus_b2, minus_step;
  explicit Lion(const LimitState& state)
      : b1(constant(lion_beta1)),
        one_minus_b1(constant(1 - lion_beta1)),
        b2(constant(lion_beta2)),
        one_minus_b2(constant(1 - lion_beta2)),
        minus_step(constant(-state.learning_rate)) {}
  POLYAK_LIMIT_INLINE void operator()(Vector& x, Vector g, Vector* s) const {
    const Vector u = fma(b1, s[0], one_minus_b1 * g);
    x = fma(minus_step, sign(u), x);
    s[0] = fma(b2, s[0], one_minus_b2 * g);
  }
};

template <bool FastAverage>
struct AdEMAMix {
  static constexpr std::size_t slots = FastAverage ? 3 : 2;
  static constexpr bool optimizes = true;
  Vector b1, one_minus_b1, b2, one_minus_b2, b3, one_minus_b3, fast_scale, slow_scale, scale, eps,
      minus_step;
  explicit AdEMAMix(const LimitState& state)
      : b1(constant(beta1)),
        one_minus_b1(constant(1 - beta1)),
        b2(constant(beta2)),
        one_minus_b2(constant(1 - beta2)),
        b3(constant(beta3)),
        one_minus_b3(constant(1 - beta3)),
        fast_scale(constant(1 / (1 - state.beta1_power))),
        slow_scale(constant(alpha)),
        scale(constant(root_scale(state))),
        eps(constant(epsilon)),
        minus_step(constant(-state.learning_rate)) {}
  POLYAK_LIMIT_INLINE void operator()(Vector& x, Vector g, Vector* s) const {
    Vector& slow = s[slots - 2];
    Vector& second = s[slots - 1];
    Vector fast = g;
    if constexpr (FastAverage) {
      s[0] = fma(b1, s[0], one_minus_b1 * g);
      fast = fast_scale * s[0];
    }
    slow = fma(b3, slow, one_minus_b3 * g);
    second = fma(b2, second, one_minus_b2 * g * g);
    x = fma(minus_step, fma(slow_scale, slow, fast) / fma(sqrt(second), scale, eps), x);
  }
};

template <bool Adaptive>
struct ScheduleFree {
  static constexpr std::size_t slots = Adaptive ? 2 : 1;
  static constexpr bool optimizes = true;
  Vector gain, pull, minus_step, b2, one_minus_b2, scale, eps;
  explicit ScheduleFree(const LimitState& state)
      : gain(constant(c(state))),
        pull(constant(state.learning_rate * (schedule_free_beta * (1 - c(state)) - 1))),
        minus_step(constant(-state.learning_rate)),
        b2(constant(beta2)),
        one_minus_b2(constant(1 - beta2)),
        scale(constant(root_scale(state))),
        eps(constant(epsilon)) {}
  static double c(const LimitState& state) {
    return state.learning_rate * state.learning_rate / state.weight_sum;
  }
  POLYAK_LIMIT_INLINE void operator()(Vector& y, Vector g, Vector* s) const {
    Vector& z = s[0];
    Vector d = g;
    if constexpr (Adaptive) {
      s[1] = fma(b2, s[1], one_minus_b2 * g * g);
      d = g / fma(sqrt(s[1]), scale, eps);
    }
    y = fma(pull, d, fma(gain, z - y, y));
    z = fma(minus_step, d, z);
  }
};

template <typename Law, std::size_t Averages>
struct Kernel {
  static constexpr std::size_t first_slot = Law::optimizes ? 2 : 1;
  static constexpr std::size_t first_average = first_slot + Law::slots;
  static constexpr std::size_t streams = first_average + Averages;
  using Streams = std::make_index_sequence<streams>;

  template <std::size_t... Stream>
  POLYAK_LIMIT_INLINE static void load_all(float* const* p, std::size_t i, Vector* values,
                                           std::index_sequence<Stream...>) {
    ((values[Stream] = load(p[Stream] + i)), ...);
  }
  template <std::size_t... Average>
  POLYAK_LIMIT_INLINE static void apply(const Law& law, [[maybe_unused]] const Vector* gains,
                                        Vector* values, std::index_sequence<Average...>) {
    if constexpr (Law::optimizes) law(values[0], values[1], values + first_slot);
    ((values[first_average + Average] =
          fma(gains[Average], values[0] - values[first_average + Average],
              values[first_average + Average])),
     ...);
  }
  template <std::size_t Stream>
  POLYAK_LIMIT_INLINE static void store_one(float* const* p, std::size_t i, const Vector* values) {
    constexpr bool only_read = Stream == (Law::optimizes ? 1 : 0);
    if constexpr (!only_read) store(p[Stream] + i, values[Stream]);
  }
  template <std::size_t... Stream>
  POLYAK_LIMIT_INLINE static void store_all(float* const* p, std::size_t i, const Vector* values,
                                            std::index_sequence<Stream...>) {
    (store_one<Stream>(p, i, values), ...);
  }

  // Two vectors of each stream per iteration, all loads before the stores, plain stores, no
  // prefetch.
  static void run(const LimitState& state, float* const* streams_of_call, const LimitRange* ranges,
                  std::size_t count) {
    const Law law(state);
    Vector gains[Averages == 0 ? 1 : Averages];
    for (std::size_t k = 0; k < Averages; ++k) gains[k] = spread(state.gains[k]);
    float* p[streams];
    for (std::size_t k = 0; k < streams; ++k) p[k] = streams_of_call[k];
    constexpr auto averages = std::make_index_sequence<Averages>();
    for (std::size_t range = 0; range < count; ++range) {
      const std::size_t end = ranges[range].end;
      std::size_t i = ranges[range].begin;
      for (; i + 2 * Vector::lanes <= end; i += 2 * Vector::lanes) {
        Vector first[streams], second[streams];
        load_all(p, i, first, Streams());
        load_all(p, i + Vector::lanes, second, Streams());
        apply(law, gains, first, averages);
        apply(law, gains, second, averages);
        store_all(p, i, first, Streams());
        store_all(p, i + Vector::lanes, second, Streams());
      }
      for (; i < end; i += Vector::lanes) {
        Vector values[streams];
        load_all(p, i, values, Streams());
        apply(law, gains, values, averages);
        store_all(p, i, values, Streams());
      }
    }
  }
};

template <std::size_t Terms, bool Streamed>
struct Sum {
  template <std::size_t... Term>
  POLYAK_LIMIT_INLINE static Vector at(const Vector* weights, const float* const* p, std::size_t i,
                                       std::index_sequence<Term...>) {
    const Vector terms[] = {load(p[Term] + i)...};
    Vector sum = weights[0] * terms[0];
    ((sum = Term == 0 ? sum : fma(weights[Term], terms[Term], sum)), ...);
    return sum;
  }
  POLYAK_LIMIT_INLINE static void put(float* p, Vector value) {
    if constexpr (Streamed) {
      stream(p, value);
    } else {
      store(p, value);
    }
  }
  static void run(const float* weights, const float* const* sources, float* target,
                  const LimitRange* ranges, std::size_t count) {
    constexpr auto all = std::make_index_sequence<Terms>();
    Vector w[Terms];
    const float* p[Terms];
    for (std::size_t k = 0; k < Terms; ++k) {
      w[k] = spread(weights[k]);
      p[k] = sources[k];
    }
    for (std::size_t range = 0; range < count; ++range) {
      const std::size_t end = ranges[range].end;
      std::size_t i = ranges[range].begin;
      for (; i + 2 * Vector::lanes <= end; i += 2 * Vector::lanes) {
        const Vector first = at(w, p, i, all), second = at(w, p, i + Vector::lanes, all);
        put(target + i, first);
        put(target + i + Vector::lanes, second);
      }
      for (; i < end; i += Vector::lanes) put(target + i, at(w, p, i, all));
    }
    if constexpr (Streamed) end_of_streams();
  }
};

POLYAK_LIMIT_INLINE Vector load_some(const float* p) { return load(p); }
POLYAK_LIMIT_INLINE Vector load_some(const std::uint16_t* p) { return load_bfloat16(p); }
POLYAK_LIMIT_INLINE void store_some(float* p, Vector a) { store(p, a); }
POLYAK_LIMIT_INLINE void store_some(std::uint16_t* p, Vector a) { store_bfloat16(p, a); }

template <bool Rests>
void bfloat16_adamw(const LimitState& state, std::uint16_t* x, const std::uint16_t* g,
                    std::uint16_t* rest, float* m, float* v, const LimitRange* ranges,
                    std::size_t count) {
  constexpr std::size_t lanes = Vector::lanes;
  const Adam<false> adamw(state);
  for (std::size_t range = 0; range < count; ++range) {
    for (std::size_t i = ranges[range].begin; i < ranges[range].end; i += lanes) {
      Vector slots[] = {load(m + i), load(v + i)};
      Vector value = load_bfloat16(x + i);
      if constexpr (Rests) value = value - load_bfloat16(rest + i);
      adamw(value, load_bfloat16(g + i), slots);
      store_bfloat16(x + i, value);
      if constexpr (Rests) store_bfloat16(rest + i, load_bfloat16(x + i) - value);
      store(m + i, slots[0]);
      store(v + i, slots[1]);
    }
  }
}

template <typename Average>
void bfloat16_ema(float gain, const std::uint16_t* x, void* of_average, std::uint16_t*,
                  const LimitRange* ranges, std::size_t count) {
  constexpr std::size_t lanes = Vector::lanes;
  auto* const average = static_cast<Average*>(of_average);
  const Vector c = spread(gain);
  for (std::size_t range = 0; range < count; ++range) {
    for (std::size_t i = ranges[range].begin; i < ranges[range].end; i += 2 * lanes) {
      const Vector x0 = load_some(x + i), x1 = load_some(x + i + lanes);
      const Vector a0 = load_some(average + i), a1 = load_some(average + i + lanes);
      store_some(average + i, fma(c, x0 - a0, a0));
      store_some(average + i + lanes, fma(c, x1 - a1, a1));
    }
  }
}

void compensated_ema(float gain, const std::uint16_t* x, void* of_average, std::uint16_t* excess,
                     const LimitRange* ranges, std::size_t count) {
  constexpr std::size_t lanes = Vector::lanes;
  auto* const average = static_cast<std::uint16_t*>(of_average);
  const Vector c = spread(gain);
  for (std::size_t range = 0; range < count; ++range) {
    for (std::size_t i = ranges[range].begin; i < ranges[range].end; i += 2 * lanes) {
      const std::size_t j = i + lanes;
      const Vector x0 = load_some(x + i), x1 = load_some(x + j);
      const Vector a0 = load_some(average + i) - load_some(excess + i);
      const Vector a1 = load_some(average + j) - load_some(excess + j);
      const Vector sum0 = fma(c, x0 - a0, a0), sum1 = fma(c, x1 - a1, a1);
      const Vector upper0 = rounded_upper(sum0), upper1 = rounded_upper(sum1);
      store_upper(average + i, upper0);
      store_upper(average + j, upper1);
      store_some(excess + i, without_lower(upper0) - sum0);
      store_some(excess + j, without_lower(upper1) - sum1);
    }
  }
}

template <typename Law, std::size_t... Averages>
LimitKernel with_averages(std::size_t averages, std::index_sequence<Averages...>) {
  constexpr LimitKernel kernels[] = {Kernel<Law, Averages>::run...};
  return kernels[averages];
}

/// Calls `use` with a null pointer to the method's law.
template <typename Use>
auto of_method(LimitMethod method, Use use) {
  switch (method) {
    case LimitMethod::sgd_plain:
      return use(static_cast<SgdPlain*>(nullptr));
    case LimitMethod::sgd:
      return use(static_cast<Sgd*>(nullptr));
    case LimitMethod::adamw:
      return use(static_cast<Adam<false>*>(nullptr));
    case LimitMethod::adam_amsgrad:
      return use(static_cast<Adam<true>*>(nullptr));
    case LimitMethod::lion:
      return use(static_cast<Lion*>(nullptr));
    case LimitMethod::ademamix:
      return use(static_cast<AdEMAMix<true>*>(nullptr));
    case LimitMethod::ademamix_beta1_0:
      return use(static_cast<AdEMAMix<false>*>(nullptr));
    case LimitMethod::schedule_free_sgd:
      return use(static_cast<ScheduleFree<false>*>(nullptr));
    case LimitMethod::schedule_free_adamw:
      return use(static_cast<ScheduleFree<true>*>(nullptr));
    default:
      return use(static_cast<None*>(nullptr));
  }
}

}  // namespace

LimitKernel limit_kernel(LimitMethod method, std::size_t averages) {
  return of_method(method, [&]<typename Law>(Law*) {
    return with_averages<Law>(averages, std::make_index_sequence<max_limit_averages + 1>());
  });
}

std::size_t limit_slots(LimitMethod method) {
  return of_method(method, []<typename Law>(Law*) { return Law::slots; });
}

void limit_advance(LimitState& state) {
  constexpr double nothing = 1e-30;  // below it a power no longer counts; denormal ones are slow
  ++state.steps;
  state.beta1_power = state.beta1_power < nothing ? 0 : state.beta1_power * beta1;
  state.beta2_power = state.beta2_power < nothing ? 0 : state.beta2_power * beta2;
  state.weight_sum += state.learning_rate * state.learning_rate;
}

LimitSum limit_sum(std::size_t terms, bool streamed) {
  switch (terms) {
    case 2:
      return streamed ? Sum<2, true>::run : Sum<2, false>::run;
    case 4:
      return streamed ? Sum<4, true>::run : Sum<4, false>::run;
    default:
      return streamed ? Sum<8, true>::run : Sum<8, false>::run;
  }
}

LimitBfloat16AdamW limit_bfloat16_adamw(bool rests) {
  return rests ? bfloat16_adamw<true> : bfloat16_adamw<false>;
}

LimitBfloat16Ema limit_bfloat16_ema(LimitStorage storage) {
  switch (storage) {
    case LimitStorage::floats:
      return bfloat16_ema<float>;
    case LimitStorage::bfloat16:
      return bfloat16_ema<std::uint16_t>;
    default:
      return compensated_ema;
  }
}

double limit_dot(const float* x, const float* y, const LimitRange* ranges, std::size_t count) {
  constexpr std::size_t lanes = Vector::lanes;
  double all = 0;
  for (std::size_t r = 0; r < count; ++r) {
    Vector sums[4] = {spread(0), spread(0), spread(0), spread(0)};
    std::size_t i = ranges[r].begin;
    for (; i + 4 * lanes <= ranges[r].end; i += 4 * lanes) {
      for (std::size_t k = 0; k < 4; ++k) {
        sums[k] = fma(load(x + i + k * lanes), load(y + i + k * lanes), sums[k]);
      }
    }
    for (; i < ranges[r].end; i += lanes) sums[0] = fma(load(x + i), load(y + i), sums[0]);
    alignas(64) float values[lanes];
    for (const Vector& sum : sums) {
      store(values, sum);
      for (const float value : values) all += static_cast<double>(value);
    }
  }
  return all;
}

std::size_t limit_vector_bytes() { return Vector::lanes * sizeof(float); }

}  // namespace polyak_bench
