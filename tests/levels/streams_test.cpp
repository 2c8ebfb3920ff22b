// SPDX-License-Identifier: Apache-2.0
// polyak/core/streams.hpp: laws over any number of lists and arrays give the same bits as on single
// numbers, for all types, places, splits and levels; nothing else is written.
#include <polyak/core/streams.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/stream_loops.hpp>
#include <polyak/core/stream_merge.hpp>
#include <polyak/core/stream_plan.hpp>
#include <polyak/core/sum.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/stream.hpp>

#include "../support/allocations.hpp"
#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"
#include "../support/model.hpp"
#include "../support/numbers.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"
#include "../support/stream_laws.hpp"

namespace streams_test {

namespace {

using polyak::LawStreams;
using polyak::detail::StreamPlan;
using stream_laws::Follow;
using stream_laws::TwoOfThree;
using stream_laws::WeighedByStreams;

constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
constexpr std::size_t margin = 40;

/// Fills an output from nothing.
struct Zero {
  using Value = float;
  static constexpr LawStreams streams{.outputs = 1, .inputs = 0};
  template <class V>
  POLYAK_LAW void operator()(V& out) const {
    out = V(0);
  }
};

/// Numbers between others, `offset` elements after the start of some line.
template <class T>
struct Array {
  std::vector<T> memory;
  std::size_t offset, count;
  Array(std::size_t size, std::size_t place, std::uint64_t seed)
      : memory(size + 2 * margin), offset(place), count(size) {
    for (std::size_t k = 0; k < memory.size(); ++k) {
      memory[k] = static_cast<T>(static_cast<float>(1.5 + bits::uniform(k, seed)));
    }
  }
  using value_type = T;
  [[nodiscard]] T* data() { return memory.data() + offset; }
  [[nodiscard]] const T* data() const { return memory.data() + offset; }
  [[nodiscard]] std::size_t size() const { return count; }
  template <class U>
  [[nodiscard]] U at(std::size_t i) const {
    return polyak::detail::widened<U>(data(), i);
  }
  void put(std::size_t i, double value) { polyak::detail::narrow_into(data(), i, value); }
};

template <class T>
bool same(const Array<T>& a, const Array<T>& b) {
  return bits::bytes(a.memory) == bits::bytes(b.memory);
}

/// Calls `law(number...)` with the arithmetic of a level.
template <class T, class Use>
void as_level(int level, Use use) {
  if (levels::rounds_once(level)) {
    use(polyak::detail::Number<T>(T(0)));
  } else {
    use(levels::TwoRoundings<T>(T(0)));
  }
}
template <class V, class T>
V value(T number) {
  return V(number);
}
template <class V>
double number(const V& x) {
  return static_cast<double>(x.value);
}

template <class T, class A, class B, class X, class Y, class Z>
void check_fixed() {
  for (const int level : levels::supported()) {
    for (const std::size_t size : {0U, 1U, 31U, 33U, 100U, 1500U}) {
      for (const std::size_t streams_above : {std::size_t{0}, never}) {
        const std::size_t place = size % 7 + 1;
        const Array<X> x(size, place, 1);
        const Array<Y> y(size, 0, 2);
        const Array<Z> z(size, 3, 3);
        Array<A> a(size, place + 2, 4), want_a = a;
        Array<B> b(size, place, 5), want_b = b;
        const TwoOfThree<T> law{static_cast<T>(0.3)};
        as_level<T>(level, [&]<class V>(V) {
          for (std::size_t i = 0; i < size; ++i) {
            V first(T(0)), second(T(0));
            law(first, second, V(x.template at<T>(i)), V(y.template at<T>(i)),
                V(z.template at<T>(i)));
            want_a.put(i, number(first));
            want_b.put(i, number(second));
          }
        });
        for (const Split split : {Split::whole, Split::pieces, Split::threads}) {
          a = Array<A>(size, place + 2, 4);
          b = Array<B>(size, place, 5);
          Splitter executor(split, static_cast<unsigned>(size));
          polyak::detail::sweep_all(executor, law, polyak::writes(a, b), polyak::reads(x, y, z),
                                    polyak::detail::AnyTensor{}, StreamPlan{level, streams_above});
          INFO("level " << level << ", size " << size << ", streams above " << streams_above);
          CHECK(same(a, want_a));
          CHECK(same(b, want_b));
        }
      }
    }
  }
}

template <class T, class Out, class In>
void check_merge() {
  using Law = WeighedByStreams<T>;
  for (const std::size_t terms : {1U, 2U, 4U, 5U, 6U, 7U, 9U}) {
    for (const std::size_t size : {std::size_t{33}, std::size_t{7000}, std::size_t{20000}}) {
      const std::size_t used = size == 20000 && terms < 7 ? 300 : size;  // blocks need many terms
      std::vector<Array<In>> inputs;
      std::vector<double> weights;
      for (std::size_t k = 0; k < 2 * terms; ++k) inputs.emplace_back(used, k % 9, 10 + k);
      for (std::size_t k = 0; k < terms; ++k) weights.push_back(0.5 + static_cast<double>(k));
      Array<Out> mean(used, 5, 1), total(used, 5, 2), want_mean = mean, want_total = total;
      for (const int level : levels::supported()) {
        as_level<T>(level, [&]<class V>(V) {
          for (std::size_t i = 0; i < used; ++i) {
            V a(T(0)), b(T(0)), out(T(0)), all(T(0));
            for (std::size_t k = 0; k < terms; ++k) {
              const V w(static_cast<T>(weights[k]));
              const V x(inputs[2 * k].template at<T>(i)), f(inputs[2 * k + 1].template at<T>(i));
              k == 0 ? Law{}.first(a, b, w, x, f) : Law{}.next(a, b, w, x, f);
            }
            Law{}.finish(out, all, a, b);
            want_mean.put(i, number(out));
            want_total.put(i, number(all));
          }
        });
        for (const std::size_t streams_above : {std::size_t{0}, never}) {
          mean = Array<Out>(used, 5, 1);
          total = Array<Out>(used, 5, 2);
          Splitter executor(streams_above == 0 ? Split::pieces : Split::threads, 3);
          const std::array<polyak::Stream<Out>, 2> outputs{polyak::detail::output_stream(mean),
                                                           polyak::detail::output_stream(total)};
          polyak::detail::merge_all("a merge", executor, Law{}, outputs,
                                    polyak::detail::InputsOf<std::vector<Array<In>>>{inputs},
                                    polyak::detail::GivenWeights{weights, 1},
                                    polyak::detail::AnyTensor{}, StreamPlan{level, streams_above});
          INFO(terms << " terms of " << used << " elements, level " << level);
          CHECK(same(mean, want_mean));
          CHECK(same(total, want_total));
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("a sweep over streams gives the bits of its law on single numbers", "[streams]") {
  check_fixed<float, float, float, float, float, float>();
  check_fixed<double, double, double, double, double, double>();
  check_fixed<float, Eigen::bfloat16, float, Eigen::half, float, Eigen::bfloat16>();
  check_fixed<double, float, double, float, Eigen::half, double>();
}

TEST_CASE("a merge of any number of terms gives the bits of its law on single numbers",
          "[streams]") {
  check_merge<float, float, float>();
  check_merge<float, Eigen::bfloat16, Eigen::half>();
  check_merge<double, float, float>();
  check_merge<double, double, double>();
}

TEST_CASE("an output may be an input or be updated in place", "[streams]") {
  for (const std::size_t size : {50U, 3000U}) {
    Array<float> x(size, 1, 1), y(size, 2, 2), z(size, 3, 3);
    const Array<float> old_x = x, old_y = y;
    const TwoOfThree<float> law{2};
    polyak::detail::sweep_all(polyak::serial, law, polyak::writes(y, x), polyak::reads(x, y, z),
                              polyak::detail::AnyTensor{}, StreamPlan{.streams_above = 0});
    for (std::size_t i = 0; i < size; ++i) {
      CHECK(y.data()[i] == std::fma(2.0F, old_x.data()[i] - old_y.data()[i], z.data()[i]));
      CHECK(x.data()[i] == std::max(old_x.data()[i], old_y.data()[i]) + z.data()[i]);
    }
    const Array<float> fast = x, slow = y;
    polyak::sweep_streams(polyak::serial, Follow<float>{0.25F}, polyak::writes(x, y),
                          polyak::reads(z));
    for (std::size_t i = 0; i < size; ++i) {
      const float f = fast.data()[i], s = slow.data()[i];
      CHECK(y.data()[i] == std::fma(0.25F, f - s, s));
      CHECK(x.data()[i] == std::fma(0.25F, z.data()[i] - f, f));
    }
    polyak::sweep_streams(polyak::serial, Zero{}, polyak::writes(x), polyak::reads());
    CHECK(std::all_of(x.data(), x.data() + size, [](float value) { return value == 0; }));
    CHECK(x.memory[0] != 0);
    CHECK(x.memory[size + 1] != 0);
  }
}

TEST_CASE("parameters, gradients and slots can be streams", "[streams]") {
  Model<float> model({5, 70, 0, 33, 4200}, true), target({5, 70, 0, 33, 4200}, true);
  model.differentiate(1, {1});
  polyak::Ema<float> average(model.params, {.decay = 0.5});
  average.update(model.params);
  model.wander(1);
  const auto before = target.bytes();
  const auto slot = polyak::stream_of(average.slots(), 0);
  const TwoOfThree<float> law{0.5F};
  const allocations::Counter counter;
  polyak::detail::sweep_all(polyak::serial, law,
                            std::tuple(polyak::detail::output_stream(target.params), slot),
                            polyak::reads(model.params, model.gradients, slot),
                            polyak::detail::AnyTensor{}, StreamPlan{});
  CHECK(counter.counts().number == 0);
  CHECK(target.margins_intact());
  CHECK(target.bytes() != before);
  Model<float> untouched({5, 70, 0, 33, 4200}, true);
  for (std::size_t k = 0; k < model.trained(); ++k) {
    // No gradient; or averages ignore the tensor, so that there is no slot.
    const bool left = k == 1 || k == 5;
    CHECK((target.tensor_bytes(k) == untouched.tensor_bytes(k)) == (left || k == 2));
    if (left || k == 2) continue;
    const Model<float> first({5, 70, 0, 33, 4200}, true);  // the average is a copy of it
    for (std::size_t i = 0; i < model.params[k].size(); ++i) {
      const float x = model.params[k].data()[i], g = model.gradients[k][i];
      const float kept = first.params[k].data()[i];
      CHECK(target.params[k].data()[i] == std::fma(0.5F, x - g, kept));
      CHECK(average.slots().tensor(0, k)[i] == std::max(x, g) + kept);
    }
  }
}

TEST_CASE("a selection determines the tensors of a sweep", "[streams]") {
  std::vector<float> a(10, 1), b(10, 3), c(10, 5);
  polyak::Parameters<float> first, second, target;
  for (auto* one : {&first, &second, &target}) {
    auto& memory = one == &first ? a : one == &second ? b : c;
    one->add("w", memory.data(), {2, 3}).add("bias", memory.data() + 6, {4});
  }
  const std::vector<const polyak::Parameters<float>*> models{&first, &second};
  polyak::merge_streams(polyak::serial, polyak::WeightedSumLaw<float>{}, polyak::writes(target),
                        models, std::array{0.5, 2.0}, polyak::Selection(polyak::matrices));
  CHECK(c == std::vector<float>{6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 5, 5, 5, 5});
  polyak::sweep_streams(polyak::serial, Zero{}, polyak::writes(target), polyak::reads(),
                        polyak::named("b*"));
  CHECK(c == std::vector<float>{6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 0, 0, 0, 0});
}

TEST_CASE("an overlap is found among thousands of tensors in any order", "[streams]") {
  constexpr std::size_t count = 2000;
  std::vector<float> memory(10 * count + 10, 1);
  // Tensors of 3 elements at every 10th, in an order of their own; those of the output lie between.
  const auto list = [&](std::size_t factor, std::size_t begin) {
    polyak::Parameters<float> params;
    for (std::size_t k = 0; k < count; ++k) {
      params.add("w" + std::to_string(k), memory.data() + begin + k * factor % count * 10, {3});
    }
    return params;
  };
  const auto input = list(7, 0), output = list(9, 5);
  const auto pass = [](const auto& to, const auto& from) {
    polyak::merge_streams(polyak::serial, polyak::WeightedSumLaw<float>{}, polyak::writes(to),
                          std::vector{&from}, std::array{2.0});
  };
  pass(output, input);
  CHECK(memory[0] == 1);
  CHECK(memory[5] == 2);
  CHECK(memory[8] == 1);
  pass(input, input);
  CHECK(memory[0] == 2);
  const auto before = memory;
  for (const std::size_t at : {0U, 511U, 512U, 1999U}) {
    polyak::Parameters<float> moved;
    for (std::size_t k = 0; k < count; ++k) {
      const float* const place = output[k].data();
      moved.add(output[k].name(), const_cast<float*>(place) + (k == at ? 3 : 0), {3});
    }
    // It now ends 1 element behind the beginning of a tensor of the input.
    const std::size_t met = [&] {
      std::size_t k = 0;
      while (input[k].data() != moved[at].data() + 2) ++k;
      return k;
    }();
    CHECK(refuses([&] { pass(moved, input); },
                  {"overlaps input 0, tensor \"w" + std::to_string(met) + "\""}));
  }
  CHECK(memory == before);
}

TEST_CASE("streams that do not fit are rejected, and nothing is written", "[streams]") {
  std::vector<float> a{1, 2, 3, 4}, b{5, 6, 7, 8}, c(4), shorter(3);
  const auto untouched = [&] {
    return c == std::vector<float>(4) && a == std::vector<float>{1, 2, 3, 4};
  };
  const TwoOfThree<float> law{1};
  std::vector<float> d(4);
  CHECK(refuses(
      [&] {
        polyak::sweep_streams(polyak::serial, law, polyak::writes(c, d),
                              polyak::reads(a, b, shorter));
      },
      {"must have 4 elements", "got 3"}));
  polyak::Parameters<float> list, other;
  list.add("x", a);
  other.add("y", b);
  CHECK(refuses(
      [&] {
        polyak::sweep_streams(polyak::serial, law, polyak::writes(c, d), polyak::reads(a, b, list));
      },
      {"lists or arrays, not both"}));
  CHECK(refuses(
      [&] {
        polyak::sweep_streams(polyak::serial, law, polyak::writes(list, list),
                              polyak::reads(other, other, other));
      },
      {"\"x\" is missing", "\"y\" is extra"}));
  CHECK(refuses(
      [&] {
        polyak::sweep_streams(polyak::serial, law, polyak::writes(c, c), polyak::reads(a, b, a));
      },
      {"overlaps output 1"}));
  const std::span<float> part(a.data(), 3), shifted(a.data() + 1, 3);
  std::vector<float> e(3), f(3);
  CHECK(refuses(
      [&] {
        polyak::sweep_streams(polyak::serial, law, polyak::writes(part, e),
                              polyak::reads(f, shifted, f));
      },
      {"overlaps input 1"}));
  CHECK(refuses(
      [&] {
        polyak::sweep_streams(polyak::serial, Follow<float>{1}, polyak::writes(c, d),
                              polyak::reads(d));
      },
      {"overlaps input 0"}));

  const polyak::WeightedSumLaw<float> sum;
  const auto merge = [&](const std::vector<std::vector<float>>& inputs,
                         const std::vector<double>& weights) {
    return [&, inputs, weights] {
      polyak::merge_streams(polyak::serial, sum, polyak::writes(c), inputs, weights);
    };
  };
  CHECK(refuses(merge({}, {}), {"inputs must be 1", "got 0"}));
  CHECK(refuses(merge({a, b}, {1}), {"weights must be 1", "got 1"}));
  CHECK(refuses(merge({a, b}, {1, nan_value}), {"weight 1", "finite as float32", "nan"}));
  CHECK(refuses(merge({a, b}, {1e39, 1}), {"weight 0", "1e+39"}));
  CHECK(refuses(merge({a, shorter}, {1, 1}), {"4 elements", "got 3"}));
  CHECK(refuses(
      [&] {
        polyak::merge_streams(polyak::serial, WeighedByStreams<float>{}, polyak::writes(c, d),
                              std::vector{a, b, a}, std::array{1.0});
      },
      {"inputs must be 2", "got 3"}));
  CHECK(untouched());

  polyak::Ema<float> ema(list, {.decay = 0.5});
  ema.update(list);
  const auto guard = ema.swap_into(list);
  CHECK(refusal<std::logic_error>([&] { static_cast<void>(polyak::writes(list)); }) ==
        "polyak: writing to parameters while an average is swapped in");
}

}  // namespace streams_test
