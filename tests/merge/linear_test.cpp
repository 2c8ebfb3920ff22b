// SPDX-License-Identifier: Apache-2.0
// average_n: sums and means equal the formula on single numbers, to the last bit, for any place of
// the numbers and any split of the work. Nothing else is written. Invalid calls are refused.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/merge/linear.hpp>
#include <polyak/polyak.hpp>

#include "../support/allocations.hpp"
#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/law_battery.hpp"
#include "../support/levels.hpp"
#include "../support/model.hpp"
#include "../support/numbers.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"

namespace linear_test {

namespace {

using polyak::detail::StreamPlan;

const float infinite_float = std::numeric_limits<float>::infinity();
constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
constexpr std::size_t block = polyak::detail::merge_block_bytes / sizeof(float);

/// `size` numbers that begin `offset` elements after the start of a line, between others.
template <class T>
class Placed {
 public:
  static constexpr std::size_t line = 64 / sizeof(T);

  Placed(std::size_t size, std::size_t offset, std::uint64_t seed, bool specials = false)
      : size_(size), memory_(size + 4 * line) {
    const std::size_t past = reinterpret_cast<std::uintptr_t>(memory_.data()) % 64 / sizeof(T);
    first_ = (line - past) % line + line + offset;
    std::mt19937_64 random(seed);
    for (std::size_t k = 0; k < memory_.size(); ++k) {
      memory_[k] = specials ? law_battery::some_number<T>(random)
                            : static_cast<T>(static_cast<float>(bits::uniform(k, seed)));
    }
  }
  Placed(const Placed&) = delete;
  Placed& operator=(const Placed&) = delete;

  [[nodiscard]] T* data() { return memory_.data() + first_; }
  [[nodiscard]] const T* data() const { return memory_.data() + first_; }
  [[nodiscard]] std::size_t size() const { return size_; }

  /// The bytes before and after the numbers.
  [[nodiscard]] std::vector<std::byte> around() const {
    std::vector<std::byte> all = bits::bytes(memory_);
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first_ * sizeof(T));
    all.erase(begin, begin + static_cast<std::ptrdiff_t>(size_ * sizeof(T)));
    return all;
  }

 private:
  std::size_t size_;
  std::vector<T> memory_;
  std::size_t first_ = 0;
};

double weight(std::size_t k) { return k % 3 == 1 ? -0.4 / static_cast<double>(k) : 0.3; }

std::vector<double> weights(std::size_t count) {
  std::vector<double> list;
  for (std::size_t k = 0; k < count; ++k) list.push_back(weight(k));
  return list;
}

template <class Out, class Accumulator, class Value, class In>
std::vector<Out> sums_in(const std::vector<const In*>& inputs, const std::vector<double>& weights,
                         std::size_t size) {
  std::vector<Out> out(size);
  for (std::size_t i = 0; i < size; ++i) {
    const auto term = [&](std::size_t k) {
      return Value(polyak::detail::widened<Accumulator>(inputs[k], i));
    };
    const auto factor = [&](std::size_t k) { return Value(static_cast<Accumulator>(weights[k])); };
    Value sum = factor(0) * term(0);
    for (std::size_t k = 1; k < inputs.size(); ++k) sum = fma(factor(k), term(k), sum);
    polyak::detail::narrow_into(out.data(), i, sum.value);
  }
  return out;
}

/// The sums, one number at a time, as the level computes them.
template <class Out, class Accumulator, class In>
std::vector<Out> expected_sums(int level, const std::vector<const In*>& inputs,
                               const std::vector<double>& weights, std::size_t size) {
  return levels::rounds_once(level)
             ? sums_in<Out, Accumulator, polyak::detail::Number<Accumulator>>(inputs, weights, size)
             : sums_in<Out, Accumulator, levels::TwoRoundings<Accumulator>>(inputs, weights, size);
}

/// The result of the library at its default level.
template <class Out, class Accumulator, class In>
std::vector<Out> expected_sums(const std::vector<const In*>& inputs,
                               const std::vector<double>& weights, std::size_t size) {
  return expected_sums<Out, Accumulator>(levels::supported().back(), inputs, weights, size);
}

template <class T>
bool same(const T* a, const std::vector<T>& b, std::size_t size) {
  return bits::difference(a, b.data(), 0, size) == size;
}

template <class T>
std::deque<Placed<T>> several(std::size_t count, std::size_t size, std::size_t offset,
                              bool specials = false) {
  std::deque<Placed<T>> list;
  for (std::size_t k = 0; k < count; ++k) {
    list.emplace_back(size, (offset + 3 * k) % Placed<T>::line, 7 * k + offset + 1, specials);
  }
  return list;
}

template <class T>
std::vector<const T*> pointers(const std::deque<Placed<T>>& list) {
  std::vector<const T*> addresses;
  for (const Placed<T>& one : list) addresses.push_back(one.data());
  return addresses;
}

/// Runs average_n with all parameters given, into separate memory; returns whether the result is as
/// expected.
template <class Out, class Accumulator, class In>
bool sums_well(int level, std::size_t streams_above, std::size_t offset,
               const std::vector<const In*>& inputs, const std::vector<double>& weights,
               std::size_t size, const std::vector<Out>& expected) {
  Placed<Out> out(size, offset, 1);
  const auto around = out.around();
  polyak::detail::average_memory<Accumulator>(polyak::serial, out, inputs, weights,
                                              StreamPlan{level, streams_above});
  return same(out.data(), expected, size) && out.around() == around;
}

template <class Out, class In, class Accumulator>
void check_types() {
  INFO(polyak::detail::name_of(polyak::detail::dtype_of<In>())
       << " to " << polyak::detail::name_of(polyak::detail::dtype_of<Out>()) << " in "
       << polyak::detail::name_of(polyak::detail::dtype_of<Accumulator>()));
  constexpr std::size_t sizes[] = {0, 1, 7, 31, 32, 33, 64, 95, 130, 301};
  for (std::size_t count = 1; count <= 17; ++count) {
    const auto inputs = several<In>(count, 301, count, count % 2 == 0);
    const auto list = pointers(inputs);
    const auto factors = weights(count);
    for (const int level : levels::supported()) {
      const auto expected = expected_sums<Out, Accumulator>(level, list, factors, 301);
      for (const std::size_t size : sizes) {
        const std::size_t offset = (size + count) % Placed<Out>::line;
        for (const std::size_t streams_above : {std::size_t{0}, never}) {
          if (!sums_well<Out, Accumulator>(level, streams_above, offset, list, factors, size,
                                           expected)) {
            FAIL_CHECK(count << " inputs, " << size << " elements, level " << level
                             << (streams_above == 0 ? ", past the caches" : ""));
          }
        }
      }
    }
  }
}

/// Weights that sum to 1, none of them negative; the first ones 0 where `empty` are.
std::vector<double> shares(std::size_t count, std::size_t empty) {
  std::vector<double> list(count);
  double sum = 0;
  for (std::size_t k = empty; k < count; ++k) sum += list[k] = static_cast<double>(1 + k % 5);
  for (double& one : list) one /= sum;
  return list;
}

template <class Out, class Accumulator, class Value, class In>
std::vector<Out> means_in(std::vector<const In*> inputs, std::vector<double> weights,
                          std::size_t size) {
  const auto leader = std::find_if(weights.begin(), weights.end(), [](double w) { return w != 0; });
  std::swap(inputs[0], inputs[static_cast<std::size_t>(leader - weights.begin())]);
  std::swap(weights[0], *leader);
  std::vector<Out> out(size);
  for (std::size_t i = 0; i < size; ++i) {
    const auto term = [&](std::size_t k) {
      return Value(polyak::detail::widened<Accumulator>(inputs[k], i));
    };
    Value mean = term(0);
    double total = weights[0];
    for (std::size_t k = 1; k < inputs.size(); ++k) {
      total += weights[k];
      mean = fma(Value(static_cast<Accumulator>(-weights[k] / total)), mean - term(k), mean);
    }
    polyak::detail::narrow_into(out.data(), i, mean.value);
  }
  return out;
}

template <class Out, class In, class Accumulator>
void check_means() {
  using polyak::detail::Number;
  for (const std::size_t count : {1U, 2U, 3U, 5U, 8U, 9U, 13U, 17U}) {
    const auto inputs = several<In>(count, 301, count);
    const auto list = pointers(inputs);
    const auto factors = shares(count, count / 3);
    for (const int level : levels::supported()) {
      const auto expected =
          levels::rounds_once(level)
              ? means_in<Out, Accumulator, Number<Accumulator>>(list, factors, 301)
              : means_in<Out, Accumulator, levels::TwoRoundings<Accumulator>>(list, factors, 301);
      for (const std::size_t size : {std::size_t{33}, std::size_t{301}}) {
        for (const std::size_t streams_above : {std::size_t{0}, never}) {
          INFO(count << " inputs of " << size << " elements, level " << level);
          CHECK(sums_well<Out, Accumulator>(level, streams_above, count % 7, list, factors, size,
                                            expected));
        }
      }
    }
  }
}

/// Numbers of every kind but NaN, which have many bits. Infinities have a weight in all inputs:
/// times 0 they are NaN.
template <class T>
void check_equal_inputs() {
  for (const bool finite : {false, true}) {
    Placed<T> input(2 * block + 77, 3, 5, true);
    for (std::size_t i = 0; i < input.size(); ++i) {
      const T x = input.data()[i];
      if (bits::is_nan(x) || (finite && bits::is_nan(x - x))) {
        input.data()[i] = static_cast<T>(-0.0F);
      }
    }
    for (const std::size_t count : {1U, 2U, 3U, 7U, 11U, 40U}) {
      std::vector<std::vector<double>> all{shares(count, finite ? count / 2 : 0)};
      all.emplace_back(count, 1 / static_cast<double>(count));
      for (const auto& factors : all) {
        const std::vector<const T*> list(count, input.data());
        std::vector<T> out(input.size());
        polyak::average_n(out, list, factors);
        INFO(count << " inputs");
        CHECK((bits::bytes(out) ==
               bits::bytes(std::vector<T>(input.data(), input.data() + input.size()))));
      }
    }
  }
}

/// Every place of output and inputs in a line.
template <class Out, class In>
void check_places() {
  using Accumulator = polyak::detail::accumulator_t<void, Out, In>;
  for (std::size_t to = 0; to < Placed<Out>::line; ++to) {
    for (std::size_t from = 0; from < Placed<In>::line; ++from) {
      for (const std::size_t count : {std::size_t{2}, std::size_t{9}}) {
        const std::size_t size = 100 + to + from;
        const auto inputs = several<In>(count, size, from);
        const auto list = pointers(inputs);
        const int level = levels::supported()[(to + from) % levels::supported().size()];
        const auto expected = expected_sums<Out, Accumulator>(level, list, weights(count), size);
        for (const std::size_t streams_above : {std::size_t{0}, never}) {
          if (!sums_well<Out, Accumulator>(level, streams_above, to, list, weights(count), size,
                                           expected)) {
            FAIL_CHECK(count << " inputs at " << from << ", output at " << to << ", level "
                             << level);
          }
        }
      }
    }
  }
}

/// The output in the place of one of the inputs.
template <class T>
void check_in_place() {
  using Accumulator = polyak::detail::accumulator_t<void, T, T>;
  for (const std::size_t count : {1U, 2U, 5U, 8U, 9U, 13U, 17U}) {
    for (const std::size_t size : {std::size_t{100}, 2 * block + 77}) {
      for (const std::size_t place : {std::size_t{0}, count / 2, count - 1}) {
        auto inputs = several<T>(count, size, count);
        auto list = pointers(inputs);
        if (count > 2) list[1] = list[place];  // the same input twice is one as well
        const auto expected = expected_sums<T, Accumulator>(list, weights(count), size);
        const auto around = inputs[place].around();
        std::vector<std::vector<T>> before;
        for (const auto& input : inputs) before.emplace_back(input.data(), input.data() + size);
        polyak::detail::average_memory<void>(polyak::serial, inputs[place], list, weights(count),
                                             StreamPlan{.streams_above = 0});
        INFO(count << " inputs of " << size << " elements, to number " << place);
        CHECK(same(inputs[place].data(), expected, size));
        CHECK((inputs[place].around() == around));
        for (std::size_t k = 0; k < count; ++k) {
          if (k != place) CHECK(same(inputs[k].data(), before[k], size));
        }
      }
    }
  }
}

}  // namespace

// Loading and storing are independent, so it is enough to test each type once on each side.
TEST_CASE("sums in float have the bits of sums of single numbers", "[average_n]") {
  check_types<float, float, float>();
  check_types<Eigen::half, Eigen::bfloat16, float>();
  check_types<Eigen::bfloat16, Eigen::half, float>();
}

TEST_CASE("sums in double have the bits of sums of single numbers", "[average_n]") {
  check_types<double, double, double>();
  check_types<float, double, double>();
  check_types<double, float, double>();
  check_types<Eigen::half, Eigen::half, double>();
  check_types<Eigen::bfloat16, Eigen::bfloat16, double>();
}

TEST_CASE("sums do not depend on the alignment of the numbers", "[average_n]") {
  check_places<float, float>();
  check_places<double, double>();
  check_places<double, float>();
  check_places<Eigen::half, Eigen::half>();
  check_places<Eigen::bfloat16, float>();
}

TEST_CASE("more inputs than registers are summed block by block", "[average_n]") {
  for (const std::size_t count : {8U, 9U, 10U, 11U, 12U, 13U, 17U}) {
    for (const std::size_t size : {block - 1, block, block + 1, 3 * block + 100}) {
      const auto inputs = several<float>(count, size, count);
      const auto list = pointers(inputs);
      for (const int level : levels::supported()) {
        INFO(count << " inputs of " << size << " elements, level " << level);
        const auto expected = expected_sums<float, float>(level, list, weights(count), size);
        CHECK(sums_well<float, float>(level, 0, 5, list, weights(count), size, expected));
        CHECK(sums_well<float, float>(level, never, 0, list, weights(count), size, expected));
        const auto rounded =
            expected_sums<Eigen::bfloat16, double>(level, list, weights(count), size);
        CHECK(sums_well<Eigen::bfloat16, double>(level, 0, 5, list, weights(count), size, rounded));
      }
    }
  }
}

TEST_CASE("weights that sum to 1 give the running mean of single numbers", "[average_n]") {
  check_means<float, float, float>();
  check_means<double, double, double>();
  check_means<Eigen::bfloat16, Eigen::half, float>();
  check_means<float, Eigen::bfloat16, double>();
}

TEST_CASE("the mean of equal inputs has their bits", "[average_n]") {
  check_equal_inputs<float>();
  check_equal_inputs<double>();
  check_equal_inputs<Eigen::half>();
  check_equal_inputs<Eigen::bfloat16>();
}

TEST_CASE("a mean does not overflow, and inputs of weight 0 do not affect it", "[average_n]") {
  const float most = std::numeric_limits<float>::max();
  std::vector<float> out(1);
  const auto mean = [&](const std::vector<float>& values, const std::vector<double>& factors) {
    std::vector<std::vector<float>> inputs;
    for (const float value : values) inputs.push_back({value});
    polyak::average_n(out, inputs, factors);
    return out[0];
  };
  CHECK(mean({most, -most}, {0.5, 0.5}) == 0);
  CHECK(mean({-most, most}, {0.25, 0.75}) == most / 2);
  CHECK(mean({most, most, most}, {0.3, 0.3, 0.4}) == most);
  CHECK(mean({most, 7}, {0, 1}) == 7);  // though most + (7 - most) is 0
  CHECK(mean({most, 1, 7, 7}, {0, 0, 0.25, 0.75}) == 7);
  CHECK(mean({3, most, 3}, {0.5, 0, 0.5}) == 3);
  CHECK(bits::is_nan(mean({infinite_float, 7}, {0, 1})));
  CHECK(mean({1, infinite_float}, {0.5, 0.5}) == infinite_float);
  CHECK(bits::is_nan(mean({infinite_float, -infinite_float}, {0.5, 0.5})));
}

TEST_CASE("weights that do not sum to 1 give the sum", "[average_n]") {
  const std::vector<float> x{0.1F, -3.3F, 7e-3F};
  const std::array inputs{x.data(), x.data(), x.data()};
  std::vector<float> out(3);
  using Factors = std::vector<double>;
  for (const Factors& factors : {Factors{2, -0.5, -0.5}, Factors{0.3, 0.3, 0.3}, Factors{1, 1, 1},
                                 Factors{0.25, 0.25, 0.5 + 1e-14}}) {
    polyak::average_n(out, inputs, factors);
    CHECK(same(out.data(),
               expected_sums<float, float>(std::vector<const float*>(3, x.data()), factors, 3), 3));
  }
}

TEST_CASE("the size of the output decides whether it is written past the caches", "[average_n]") {
  // One element above the limit and at it; the real limit is out of a test's reach.
  const auto inputs = several<float>(3, 5000, 1);
  const auto list = pointers(inputs);
  const auto expected = expected_sums<float, float>(list, weights(3), 5000);
  const int level = levels::supported().back();
  for (const std::size_t limit : {std::size_t{19999}, std::size_t{20000}, std::size_t{20001}}) {
    CHECK(sums_well<float, float>(level, limit, 3, list, weights(3), 5000, expected));
  }
  STATIC_REQUIRE(polyak::detail::stream_above >= (std::size_t{1} << 20));
  CHECK(StreamPlan{}.level == levels::supported().back());
}

TEST_CASE("the output may be one of the inputs", "[average_n]") {
  check_in_place<float>();
  check_in_place<double>();
  check_in_place<Eigen::half>();
  check_in_place<Eigen::bfloat16>();
}

TEST_CASE("sums do not depend on how the work is split", "[average_n]") {
  for (const std::size_t count : {3U, 11U}) {
    for (const std::size_t size : {std::size_t{5}, std::size_t{700}, 2 * block + 50}) {
      const auto inputs = several<Eigen::bfloat16>(count, size, 1);
      const auto list = pointers(inputs);
      const auto expected = expected_sums<Eigen::bfloat16, float>(list, weights(count), size);
      for (const Split split : {Split::whole, Split::pieces, Split::threads}) {
        for (unsigned seed = 0; seed < 4; ++seed) {
          for (const std::size_t streams_above : {std::size_t{0}, never}) {
            Splitter executor(split, seed);
            Placed<Eigen::bfloat16> out(size, seed, 2);
            const auto around = out.around();
            polyak::detail::average_memory<void>(executor, out, list, weights(count),
                                                 StreamPlan{.streams_above = streams_above});
            INFO(count << " inputs of " << size << " elements, seed " << seed);
            CHECK(same(out.data(), expected, size));
            CHECK((out.around() == around));
          }
        }
      }
    }
  }
}

TEST_CASE("inputs and weights can be in containers of all kinds", "[average_n]") {
  std::vector<float> a{1, 2, 3}, b{10, 20, 30}, out(3);
  const std::vector<float> sum{6, 12, 18};
  const std::array half{1.0, 0.5};
  const auto check = [&] {
    CHECK(out == sum);
    std::fill(out.begin(), out.end(), 0.F);
  };
  polyak::average_n(out, std::array{a.data(), b.data()}, half);
  check();
  polyak::average_n(std::span(out), std::vector<const float*>{a.data(), b.data()}, half);
  check();
  polyak::average_n(out, std::array{std::span(a), std::span(b)}, half);
  check();
  polyak::average_n(out, std::vector{std::span<const float>(a), std::span<const float>(b)},
                    std::vector<double>{1, 0.5});
  check();
  polyak::average_n<double>(out, std::vector{a, b}, half);
  check();
  std::size_t told = 0;
  const auto executor = [&](std::size_t elements, auto&& range) {
    told = elements;
    range(std::size_t{0}, std::size_t{1});
    range(std::size_t{1}, elements);
  };
  polyak::average_n(executor, out, std::vector{a, b}, half);
  check();
  CHECK(told == 3);
  polyak::average_n(polyak::Serial{}, std::span(out).first(2), std::array{a.data(), b.data()},
                    half);
  CHECK(out == std::vector<float>{6, 12, 0});

  // No elements: nothing happens.
  polyak::average_n(std::span(out).first(0), std::array{a.data()}, std::array{1.0});
  polyak::average_n(std::span<float>(), std::array{std::span<const float>()}, std::array{1.0});
}

TEST_CASE("accumulation in double keeps digits that float loses", "[average_n]") {
  const std::vector<float> big{0x1p24F}, one{1}, negative{-0x1p24F};
  std::vector<float> out(1);
  const std::array inputs{big.data(), one.data(), one.data(), one.data(), negative.data()};
  polyak::average_n(out, inputs, std::array{1.0, 0.25, 0.25, 0.25, 1.0});
  CHECK(out[0] == 0);
  polyak::average_n<double>(out, inputs, std::array{1.0, 0.25, 0.25, 0.25, 1.0});
  CHECK(out[0] == 0.75F);
}

TEST_CASE("infinite and undefined inputs propagate", "[average_n]") {
  const float infinite = std::numeric_limits<float>::infinity();
  const std::vector<float> a{infinite, infinite, 1}, b{1, -infinite, static_cast<float>(nan_value)};
  std::vector<float> out(3);
  polyak::average_n(out, std::array{a.data(), b.data()}, std::array{0.5, 0.5});
  CHECK(out[0] == infinite);
  CHECK(bits::is_nan(out[1]));
  CHECK(bits::is_nan(out[2]));
  polyak::average_n(out, std::array{b.data(), a.data()}, std::array{1.0, 0.0});
  CHECK(bits::is_nan(out[0]));
}

TEST_CASE("average_n allocates nothing", "[average_n]") {
  const std::size_t size = 2 * block;
  const auto inputs = several<float>(17, size, 1);
  const auto list = pointers(inputs);
  const auto factors = weights(17);
  std::vector<Eigen::bfloat16> rounded(size);
  std::vector<float> out(size);
  Model<float> model({100, 40000}, true), other({100, 40000}, true);
  const std::vector<polyak::Parameters<float>> lists{model.params, other.params};
  const allocations::Counter counter;
  polyak::average_n(out, list, factors);
  polyak::average_n<double>(rounded, list, factors);
  polyak::average_n(out, std::span(list).first(8), std::span(factors).first(8));
  polyak::average_n(model.params, lists, std::span(factors).first(2));
  CHECK(counter.counts().number == 0);
}

TEST_CASE("models are summed tensor by tensor", "[average_n]") {
  const std::vector<std::size_t> sizes{1, 0, 70, 33, 20000, 5};
  for (const std::size_t count : {1U, 2U, 4U, 10U}) {
    std::deque<Model<float>> models;
    std::vector<polyak::Parameters<float>> lists;
    for (std::size_t k = 0; k < count; ++k) {
      models.emplace_back(sizes, true);
      models.back().wander(k);
      lists.push_back(models.back().params);
    }
    std::vector<std::vector<float>> expected;
    for (std::size_t tensor = 0; tensor < models[0].trained(); ++tensor) {
      std::vector<const float*> inputs;
      for (const auto& list : lists) inputs.push_back(list[tensor].data());
      expected.push_back(
          expected_sums<float, float>(inputs, weights(count), lists[0][tensor].size()));
    }
    const auto check = [&](const Model<float>& target, const Model<float>& before) {
      for (std::size_t tensor = 0; tensor < target.trained(); ++tensor) {
        CHECK((target.tensor_bytes(tensor) == bits::bytes(expected[tensor])));
      }
      CHECK(target.params.at("ignored").info().role == polyak::Role::ignore);
      for (const char* const buffer : {"statistics", "counters"}) {
        const auto bytes = [&](const Model<float>& model) {
          const auto tensor = model.params.at(buffer);
          return bits::bytes(static_cast<const std::byte*>(tensor.raw()), tensor.bytes());
        };
        CHECK((bytes(target) == bytes(before)));
      }
      CHECK(target.margins_intact());
    };
    Model<float> before(sizes, true);
    before.differentiate(3);  // buffers that are not zero
    for (const Split split : {Split::whole, Split::pieces, Split::threads}) {
      for (const std::size_t streams_above : {std::size_t{0}, never}) {
        Model<float> target(sizes, true);
        target.differentiate(3);
        Splitter executor(split, 5);
        polyak::detail::average_lists<void>(executor, target.params, lists, weights(count),
                                            StreamPlan{.streams_above = streams_above});
        check(target, before);
      }
    }
    Model<float> target(sizes, true);
    target.differentiate(3);
    std::vector<const polyak::Parameters<float>*> addresses;
    for (const auto& list : lists) addresses.push_back(&list);
    polyak::average_n(target.params, addresses, weights(count));
    check(target, before);

    // Into one of them, last, because that one is then lost.
    models.back().differentiate(3);
    polyak::average_n(lists.back(), lists, weights(count));
    check(models.back(), before);
  }
}

TEST_CASE("average_n accepts lists in braces", "[average_n]") {
  std::vector<double> a{1, 2}, b{3, 4}, c(2);
  polyak::Parameters<double> first, second, target;
  first.add("x", a);
  second.add("x", b);
  target.add("x", c);
  polyak::average_n(target, {first, second}, std::array{0.25, 0.5});
  CHECK(c == std::vector<double>{1.75, 2.5});
  Splitter executor(Split::threads);
  polyak::average_n(executor, target, {target, first}, std::array{2.0, 1.0});
  CHECK(c == std::vector<double>{4.5, 7});
  polyak::average_n(polyak::serial, target, std::vector{&first}, std::array{3.0});
  CHECK(c == std::vector<double>{3, 6});
}

TEST_CASE("average_n refuses arrays that it cannot sum", "[average_n]") {
  std::vector<float> a{1, 2, 3}, b{4, 5, 6}, out{7, 8, 9}, shorter{1, 2};
  const std::array both{a.data(), b.data()};
  CHECK(refuses([&] { polyak::average_n(out, std::vector<const float*>{}, std::vector<double>{}); },
                {"polyak: ", "at least one input", "got 0"}));
  CHECK(refuses([&] { polyak::average_n(out, both, std::array{1.0}); },
                {"one weight per input", "got 1"}));
  CHECK(refuses([&] { polyak::average_n(out, both, std::array{1.0, 2.0, 3.0}); }, {"got 3"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(out, both, std::array{1.0, nan_value});
      },
      {"weight 1 must be finite as float32", "got nan"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(out, both, std::array{-infinity, 1.0});
      },
      {"weight 0", "got -inf"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(out, both, std::array{1.0, 1e39});
      },
      {"weight 1", "float32", "got 1e+39"}));
  CHECK(refuses(
      [&] {
        polyak::average_n<double>(out, both, std::array{1.0, infinity});
      },
      {"weight 1", "float64", "got inf"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(out, std::vector{a, shorter}, std::array{1.0, 1.0});
      },
      {"input 1 must have 3 elements", "got 2"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(out, std::vector<const float*>{a.data(), nullptr}, std::array{1.0, 1.0});
      },
      {"input 1 must have memory", "null"}));
  CHECK(out == std::vector<float>{7, 8, 9});
  polyak::average_n<double>(out, both, std::array{0.0, 1e39});
  CHECK(out[0] == std::numeric_limits<float>::infinity());

  // Partial overlap, by either end, or by another type.
  std::vector<float> memory(40, 1.F);
  const std::vector<float> before = memory;
  const auto at = [&](std::size_t first) { return std::span(memory).subspan(first, 10); };
  for (const std::size_t place : {11U, 19U, 21U, 29U}) {
    CHECK(refuses(
        [&] {
          polyak::average_n(at(20), std::array{at(0), at(place)}, std::array{1.0, 1.0});
        },
        {"overlaps", "input 1"}));
  }
  auto* const halves = reinterpret_cast<Eigen::half*>(memory.data() + 20);
  CHECK(refuses(
      [&] { polyak::average_n(std::span(halves, 10), std::array{at(20)}, std::array{1.0}); },
      {"overlaps", "input 0"}));
  auto* const brains = reinterpret_cast<Eigen::bfloat16*>(memory.data() + 20);
  CHECK(refuses(
      [&] {
        polyak::average_n(std::span(halves, 10), std::array{std::span(brains, 10)},
                          std::array{1.0});
      },
      {"overlaps", "input 0"}));
  CHECK(memory == before);
  polyak::average_n(at(20), std::array{at(10), at(30), at(5), at(6)}, weights(4));
  CHECK(memory != before);
}

TEST_CASE("average_n refuses lists that it cannot sum", "[average_n]") {
  std::vector<float> a(20, 1.F), b(20, 2.F), c(20, 3.F);
  polyak::Parameters<float> first, second, target, other;
  first.add("x", std::span(a).first(8)).add("y", std::span(a).subspan(8));
  second.add("x", std::span(b).first(8)).add("y", std::span(b).subspan(8));
  target.add("x", std::span(c).first(8)).add("y", std::span(c).subspan(8));
  other.add("x", std::span(b).first(8)).add("z", std::span(b).subspan(8));
  const std::array halves{0.5, 0.5};
  CHECK(refuses(
      [&] {
        polyak::average_n(target, {first, other}, halves);
      },
      {"\"y\" is missing", "\"z\" is extra"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(target, {first, second}, std::array{1.0});
      },
      {"one weight per input", "got 1"}));
  CHECK(refuses(
      [&] {
        polyak::average_n(target, {first, second}, std::array{1.0, nan_value});
      },
      {"weight 1", "nan"}));
  CHECK(refuses([&] { polyak::average_n(target, {}, std::span<const double>()); },
                {"at least one input"}));

  // Its own memory in another order, or by a part.
  polyak::Parameters<float> shifted, crossed;
  shifted.add("x", std::span(c).first(8)).add("y", std::span(a).first(12));
  crossed.add("x", std::span(c).subspan(8, 8)).add("y", std::span(a).first(12));
  CHECK(refuses(
      [&] {
        polyak::average_n(target, {first, crossed}, halves);
      },
      {"overlaps", "input 1", "tensor \"x\""}));
  CHECK(c == std::vector<float>(20, 3.F));
  polyak::average_n(target, {first, shifted}, halves);
  CHECK(c[0] == 2);
  CHECK(c[19] == 1);

  polyak::Ema ema(target, {.decay = 0.5});
  ema.update(target);
  {
    const auto guard = ema.swap_into(target);
    const auto held = c;
    CHECK(refusal<std::logic_error>([&] {
            polyak::average_n(target, {first, second}, halves);
          }) == "polyak: average_n() while an average is swapped in");
    CHECK(c == held);
    polyak::average_n(second, {first, target}, halves);  // reading an average is allowed
    CHECK(b[0] == 1.5F);
  }
}

}  // namespace linear_test
