// SPDX-License-Identifier: Apache-2.0
// The functions of laws: packs of one and two registers at every level give the same bits as single
// numbers, and these agree with the C library.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/number.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/vocabulary.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"

namespace vocabulary_test {

namespace {

using polyak::detail::Number;
using polyak::detail::Pack;

/// Calls `use(name, word, plain)` for each word whose result is known to the bit. A word takes
/// three values and uses those that it needs.
template <class Use>
void for_each_exact_word(Use use) {
  use(
      "+", [](const auto& a, const auto& b, const auto&) { return a + b; },
      [](const auto& a, const auto& b, const auto&) { return a + b; });
  use(
      "-", [](const auto& a, const auto& b, const auto&) { return a - b; },
      [](const auto& a, const auto& b, const auto&) { return a - b; });
  use(
      "*", [](const auto& a, const auto& b, const auto&) { return a * b; },
      [](const auto& a, const auto& b, const auto&) { return a * b; });
  use(
      "/", [](const auto& a, const auto& b, const auto&) { return a / b; },
      [](const auto& a, const auto& b, const auto&) { return a / b; });
  use(
      "negation", [](const auto& a, const auto&, const auto&) { return -a; },
      [](const auto& a, const auto&, const auto&) { return -a; });
  use(
      "sqrt", [](const auto& a, const auto&, const auto&) { return sqrt(a); },
      [](const auto& a, const auto&, const auto&) { return std::sqrt(a); });
  use(
      "max", [](const auto& a, const auto& b, const auto&) { return max(a, b); },
      [](const auto& a, const auto& b, const auto&) { return a > b ? a : b; });
  use(
      "min", [](const auto& a, const auto& b, const auto&) { return min(a, b); },
      [](const auto& a, const auto& b, const auto&) { return a < b ? a : b; });
  use(
      "abs", [](const auto& a, const auto&, const auto&) { return abs(a); },
      [](const auto& a, const auto&, const auto&) { return std::fabs(a); });
  use(
      "copysign", [](const auto& a, const auto& b, const auto&) { return copysign(a, b); },
      [](const auto& a, const auto& b, const auto&) { return std::copysign(a, b); });
  use(
      "sign", [](const auto& a, const auto&, const auto&) { return sign(a); },
      [](const auto& a, const auto&, const auto&) {
        return a > 0 ? std::decay_t<decltype(a)>(1) : a < 0 ? std::decay_t<decltype(a)>(-1) : a;
      });
  use(
      "nearest", [](const auto& a, const auto&, const auto&) { return nearest(a); },
      [](const auto& a, const auto&, const auto&) { return std::nearbyint(a); });
  use(
      "<", [](const auto& a, const auto& b, const auto& c) { return select(a < b, c, a); },
      [](const auto& a, const auto& b, const auto& c) { return a < b ? c : a; });
  use(
      "<=", [](const auto& a, const auto& b, const auto& c) { return select(a <= b, c, a); },
      [](const auto& a, const auto& b, const auto& c) { return a <= b ? c : a; });
  use(
      ">", [](const auto& a, const auto& b, const auto& c) { return select(a > b, c, a); },
      [](const auto& a, const auto& b, const auto& c) { return a > b ? c : a; });
  use(
      ">=", [](const auto& a, const auto& b, const auto& c) { return select(a >= b, c, a); },
      [](const auto& a, const auto& b, const auto& c) { return a >= b ? c : a; });
  use(
      "==", [](const auto& a, const auto& b, const auto& c) { return select(a == b, c, a); },
      [](const auto& a, const auto& b, const auto& c) { return a == b ? c : a; });
  use(
      "!=", [](const auto& a, const auto& b, const auto& c) { return select(a != b, c, a); },
      [](const auto& a, const auto& b, const auto& c) { return a != b ? c : a; });
  use(
      "both masks",
      [](const auto& a, const auto& b, const auto& c) { return select((a < b) & (b < c), c, 1); },
      [](const auto& a, const auto& b, const auto& c) {
        return a < b && b < c ? c : std::decay_t<decltype(a)>(1);
      });
  use(
      "either mask",
      [](const auto& a, const auto& b, const auto& c) { return select((a < b) | (b < c), c, 1); },
      [](const auto& a, const auto& b, const auto& c) {
        return a < b || b < c ? c : std::decay_t<decltype(a)>(1);
      });
  use(
      "no mask", [](const auto& a, const auto& b, const auto& c) { return select(!(a < b), c, 1); },
      [](const auto& a, const auto& b, const auto& c) {
        return a < b ? std::decay_t<decltype(a)>(1) : c;
      });
  use(
      "if_zero", [](const auto& a, const auto& b, const auto& c) { return if_zero(a, b, c); },
      [](const auto& a, const auto& b, const auto& c) { return a == 0 ? b : c; });
}

/// Words that round in steps of their own, or by the fma of the level.
template <class Use>
void for_each_rounding_word(Use use) {
  use("fma", [](const auto& a, const auto& b, const auto& c) { return fma(a, b, c); });
  use("with_decay",
      [](const auto& a, const auto& b, const auto& c) { return with_decay(a, b, c); });
  use("half_difference",
      [](const auto& a, const auto& b, const auto&) { return half_difference(a, b); });
  use("interpolate",
      [](const auto& a, const auto& b, const auto& c) { return interpolate(a, b, c); });
  use("exp", [](const auto& a, const auto&, const auto&) { return exp(a); });
  use("sigmoid", [](const auto& a, const auto&, const auto&) { return sigmoid(a); });
  use("tanh", [](const auto& a, const auto&, const auto&) { return tanh(a); });
  // The last operation of a word must not be contracted with the caller's operations.
  use("exp in a sum", [](const auto& a, const auto& b, const auto&) { return exp(a) + b; });
  use("sigmoid in a sum", [](const auto& a, const auto& b, const auto&) { return b - sigmoid(a); });
  use("tanh in a sum", [](const auto& a, const auto& b, const auto&) { return tanh(a) - b; });
}

/// Awkward numbers, and ordinary ones of many magnitudes.
template <class T>
std::vector<T> numbers() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> list;
  const auto both = [&](double value) {
    list.push_back(static_cast<T>(value));
    list.push_back(static_cast<T>(-value));
  };
  for (const T value :
       {T(0), Limits::denorm_min(), Limits::min() / 2, Limits::min(), Limits::epsilon(),
        Limits::max() / 2, Limits::max(), Limits::infinity(), Limits::quiet_NaN()}) {
    list.push_back(value);
    list.push_back(-value);
  }
  for (const double value :
       {0.5,      1.0,  1.5,        2.5,       3.0,    0.49999999, 8388607.5, 4503599627370495.5,
        88.72283, 88.8, 103.97,     104.1,     709.78, 709.8,      745.1,     745.2,
        9.1,      19.1, 0.34657359, 0.69314718}) {
    both(value);
  }
  for (std::uint64_t k = 0; k < 200; ++k) {
    list.push_back(static_cast<T>(bits::uniform(k) * 10));
    list.push_back(static_cast<T>(std::ldexp(bits::uniform(k + 1000), static_cast<int>(k) - 100)));
  }
  while (list.size() % 32 != 0) list.push_back(T(list.size()));
  return list;
}

/// The word on all numbers, each with two others, through packs of the level.
template <class T, int Registers, class Word>
struct OnPacks {
  const T *a, *b, *c;
  T* to;
  std::size_t count;  // a multiple of every pack
  const Word& word;

  template <class Level>
  POLYAK_LAW void run() const {
    constexpr int lanes = Registers * polyak::detail::native_lanes<T, Level>;
    using V = Pack<T, lanes, Level>;
    for (std::size_t k = 0; k < count; k += static_cast<std::size_t>(lanes)) {
      const V result = word(V::load(a + k), V::load(b + k), V::load(c + k));
      result.store(to + k);
    }
  }
};

/// Combines everything with everything: b and c are rotated against a.
template <class T>
struct Operands {
  std::vector<T> a, b, c;
  Operands() {
    const std::vector<T> list = numbers<T>();
    for (std::size_t turn = 0; turn < list.size(); turn += 7) {
      for (std::size_t k = 0; k < list.size(); ++k) {
        a.push_back(list[k]);
        b.push_back(list[(k + turn) % list.size()]);
        c.push_back(list[(k + 3 * turn + 1) % list.size()]);
      }
    }
  }
};

/// How many results of the word differ from `expected(k)`, at each level and for both widths.
template <class T, class Word, class Expected>
void check(const std::string& name, const Operands<T>& operands, const Word& word,
           Expected expected) {
  const auto& [a, b, c] = operands;
  for (const int level : levels::supported()) {
    for (const int registers : {1, 2}) {
      std::vector<T> results(a.size());
      if (registers == 1) {
        polyak::detail::run_at(level, OnPacks<T, 1, Word>{a.data(), b.data(), c.data(),
                                                          results.data(), a.size(), word});
      } else {
        polyak::detail::run_at(level, OnPacks<T, 2, Word>{a.data(), b.data(), c.data(),
                                                          results.data(), a.size(), word});
      }
      std::size_t wrong = 0;
      for (std::size_t k = 0; k < a.size(); ++k) {
        const T should = expected(level, k);
        if (bits::same(results[k], should)) continue;
        if (++wrong <= 3) {
          FAIL_CHECK(name << " at level " << level << ", " << registers << " registers, of " << a[k]
                          << ", " << b[k] << ", " << c[k] << ": " << results[k] << ", not "
                          << should);
        }
      }
      CHECK(wrong == 0);
    }
  }
}

/// The distance of a result from the true value, in units of the last place of the latter.
template <class T>
double units(T result, long double exact) {
  const T rounded = static_cast<T>(exact);
  if (std::isnan(rounded) || std::isnan(result)) {
    return std::isnan(rounded) && std::isnan(result) ? 0 : 1e9;
  }
  using Limits = std::numeric_limits<T>;
  if (std::isinf(rounded)) return result == rounded ? 0 : 1e9;
  if (std::isinf(result)) return 1e9;
  const int exponent = exact == 0 ? Limits::min_exponent : std::ilogb(exact) + 1;
  const int last = std::max(exponent, Limits::min_exponent) - Limits::digits;
  return static_cast<double>(
      std::ldexp(std::fabs(static_cast<long double>(result) - exact), -last));
}

/// The worst error in units of the last place over the range where the functions are not constant.
template <class T, class V, class Word, class Exact>
double worst_error(Word word, Exact exact, double end) {
  double worst = 0;
  const auto look = [&](T x) {
    worst = std::max(worst, units(word(V(x)).value, exact(static_cast<long double>(x))));
  };
  for (std::uint64_t k = 0; k < 100000; ++k) {
    look(static_cast<T>(bits::uniform(k) * end));
    look(static_cast<T>(bits::uniform(k) * 2));
    look(static_cast<T>(std::ldexp(bits::uniform(k), -static_cast<int>(k % 100))));
  }
  for (const T x : numbers<T>()) look(x);
  return worst;
}

template <class T, class V>
void check_errors(double of_exp, double of_others) {
  const double end = std::is_same_v<T, float> ? 120 : 800;
  CHECK(worst_error<T, V>([](auto x) { return exp(x); }, [](long double x) { return std::exp(x); },
                          end) <= of_exp);
  CHECK(worst_error<T, V>([](auto x) { return tanh(x); },
                          [](long double x) { return std::tanh(x); }, end) <= of_others);
  CHECK(worst_error<T, V>([](auto x) { return sigmoid(x); },
                          [](long double x) {
                            const long double e = std::exp(-std::fabs(x));
                            return (x < 0 ? e : 1) / (1 + e);
                          },
                          end) <= of_others);
}

}  // namespace

TEMPLATE_TEST_CASE("exact functions agree with the C library", "", float, double) {
  using T = TestType;
  const Operands<T> operands;
  for_each_exact_word([&](const char* name, auto word, auto plain) {
    const auto expected = [&](int, std::size_t k) {
      return static_cast<T>(plain(operands.a[k], operands.b[k], operands.c[k]));
    };
    check(name, operands, word, expected);
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < operands.a.size(); ++k) {
      const Number<T> a(operands.a[k]), b(operands.b[k]), c(operands.c[k]);
      wrong += bits::same(word(a, b, c).value, expected(0, k)) ? 0 : 1;
    }
    INFO(name << " of single numbers");
    CHECK(wrong == 0);
  });
}

TEMPLATE_TEST_CASE("functions that round give the same bits on packs and on single numbers", "",
                   float, double) {
  using T = TestType;
  const Operands<T> operands;
  for_each_rounding_word([&](const char* name, auto word) {
    check(name, operands, word, [&](int level, std::size_t k) {
      const auto on = [&](auto number) {
        using V = decltype(number);
        return word(V(operands.a[k]), V(operands.b[k]), V(operands.c[k])).value;
      };
      return levels::rounds_once(level) ? on(Number<T>(0)) : on(levels::TwoRoundings<T>(0));
    });
  });
}

TEMPLATE_TEST_CASE("fma rounds once on single numbers", "", float, double) {
  using T = TestType;
  const Operands<T> operands;
  std::size_t wrong = 0;
  for (std::size_t k = 0; k < operands.a.size(); ++k) {
    const T a = operands.a[k], b = operands.b[k], c = operands.c[k];
    wrong += bits::same(fma(Number<T>(a), b, c).value, std::fma(a, b, c)) ? 0 : 1;
  }
  CHECK(wrong == 0);
  const T third = T(1) / 3, product = third * 3;
  CHECK(fma(Number<T>(third), 3, -product).value != 0);
  CHECK(fma(levels::TwoRoundings<T>(third), 3, -product).value == 0);
}

TEMPLATE_TEST_CASE("exp, tanh and sigmoid are close to the true values", "", float, double) {
  using T = TestType;
  check_errors<T, Number<T>>(1.1, 1.6);
  check_errors<T, levels::TwoRoundings<T>>(1.1, 2.5);
}

TEMPLATE_TEST_CASE("exp, tanh and sigmoid are right at the ends of their ranges", "", float,
                   double) {
  using T = TestType;
  using Limits = std::numeric_limits<T>;
  constexpr T infinity = Limits::infinity();
  const auto number = [](T x) { return Number<T>(x); };
  CHECK(exp(number(0)).value == 1);
  CHECK(exp(number(-infinity)).value == 0);
  CHECK(exp(number(Limits::lowest())).value == 0);
  CHECK(exp(number(infinity)).value == infinity);
  CHECK(exp(number(Limits::max())).value == infinity);
  CHECK(std::isnan(exp(number(Limits::quiet_NaN())).value));
  const T least = std::is_same_v<T, float> ? T(-103.9) : T(-745.1);
  CHECK(exp(number(least)).value == Limits::denorm_min());
  CHECK(sigmoid(number(least)).value == Limits::denorm_min());
  CHECK(sigmoid(number(0)).value == T(0.5));
  CHECK(sigmoid(number(-infinity)).value == 0);
  CHECK(sigmoid(number(infinity)).value == 1);
  CHECK(std::isnan(sigmoid(number(Limits::quiet_NaN())).value));
  CHECK(tanh(number(infinity)).value == 1);
  CHECK(tanh(number(-infinity)).value == -1);
  CHECK(bits::same(tanh(number(-T(0))).value, -T(0)));
  CHECK(tanh(number(Limits::denorm_min())).value == Limits::denorm_min());
  CHECK(std::isnan(tanh(number(Limits::quiet_NaN())).value));
}

TEMPLATE_TEST_CASE("a compensated sum accepts plain numbers like a value", "", float, double) {
  using T = TestType;
  using polyak::detail::Compensated;
  using V = Number<T>;
  const T gain = T(0.1), one = T(1);
  Compensated<V> sum(V(1), V(0));
  for (int k = 0; k < 1000; ++k) sum = fma(gain, V(std::numeric_limits<T>::epsilon()), sum);
  const T exact = one + 100 * std::numeric_limits<T>::epsilon();
  CHECK(std::abs(sum.high.value - exact) <= std::numeric_limits<T>::epsilon());
  const V kept = if_zero(gain, 7, sum), taken = if_zero(0, 7, sum);
  CHECK(kept.value == sum.high.value);
  CHECK(taken.value == 7);
}

TEMPLATE_TEST_CASE("interpolate has the bits of a + c (b - a) and does not overflow", "", float,
                   double) {
  using T = TestType;
  using V = Number<T>;
  using Limits = std::numeric_limits<T>;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> significand(-2, 2), part(0, 1);
  // Powers of two from the smallest whose half is exact to the largest whose sum is finite.
  std::uniform_int_distribution<int> exponent(Limits::min_exponent + 25, Limits::max_exponent - 3);
  const auto some = [&](int power) {
    return static_cast<T>(std::ldexp(significand(random), power));
  };
  std::size_t differing = 0;
  for (int k = 0; k < 100000; ++k) {
    const int power = exponent(random);
    const T a = some(power), b = some(power - k % 20), c = static_cast<T>(part(random));
    const T expected = fma(V(c), V(b) - V(a), V(a)).value;
    const T found = interpolate(V(a), V(b), c).value;
    differing += bits::same(found, expected) ? 0 : 1;
  }
  CHECK(differing == 0);

  const T most = Limits::max(), infinity = Limits::infinity();
  CHECK(half_difference(V(most), V(-most)).value == most);
  CHECK(interpolate(V(-most), V(most), T(0.5)).value == 0);
  CHECK(interpolate(V(most), V(-most), T(0.25)).value == most / 2);
  CHECK(interpolate(V(most), V(most), T(0.25)).value == most);
  CHECK(std::isinf(interpolate(V(1), V(infinity), T(0.25)).value));
  // A number that no half has stays where it is.
  for (const T small : {Limits::denorm_min(), 3 * Limits::denorm_min(), Limits::min()}) {
    CHECK(interpolate(V(small), V(small), T(0.25)).value == small);
  }
}

// The public namespace must not hide the names of the C library.
namespace beside_the_c_library {
using namespace polyak;
TEST_CASE("names of the C library keep their meaning with `using namespace polyak`") {
  CHECK(fma(2.0, 3.0, 4.0) == 10.0);
  CHECK(sqrt(16.0) == 4.0);
  CHECK(exp(0.0) == 1.0);
  CHECK(tanh(0.0) == 0.0);
  CHECK(copysign(1.0, -2.0) == -1.0);
  CHECK(abs(-3) == 3);
}
}  // namespace beside_the_c_library

}  // namespace vocabulary_test
