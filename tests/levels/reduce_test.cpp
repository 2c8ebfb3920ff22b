// SPDX-License-Identifier: Apache-2.0
// polyak/core/reduce.hpp: folds against sums in long double, and to the bit against themselves.
#include <polyak/core/reduce.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/clip.hpp>
#include <polyak/core/executors/openmp.hpp>
#include <polyak/core/fold.hpp>
#include <polyak/core/fold_loops.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/fold_tree.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/stream.hpp>

#include "../support/allocations.hpp"
#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"
#include "../support/numbers.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"

namespace reduce_test {

using namespace polyak;

namespace {

using Wide = std::vector<long double>;

template <class T>
std::vector<T> numbers(std::size_t count, std::uint64_t seed) {
  std::vector<T> values(count);
  for (std::size_t k = 0; k < count; ++k) {
    values[k] = static_cast<T>(bits::uniform(k, seed) + 0.25);
  }
  return values;
}
template <class T>
Wide wide(const std::vector<T>& values) {
  Wide all;
  for (const T value : values) all.push_back(static_cast<long double>(static_cast<double>(value)));
  return all;
}

/// A fold's result in long double, and the magnitude that its error is relative to.
struct Exact {
  long double value, magnitude;
};
Exact sum_of(const Wide& terms) {
  Exact sum{0, 0};
  for (const long double term : terms) {
    sum.value += term;
    sum.magnitude += std::abs(term);
  }
  return sum;
}
Wide products(const Wide& x, const Wide& y) {
  Wide all;
  for (std::size_t k = 0; k < x.size(); ++k) all.push_back(x[k] * y[k]);
  return all;
}
Wide differences(const Wide& x, const Wide& y) {
  Wide all;
  for (std::size_t k = 0; k < x.size(); ++k) all.push_back(x[k] - y[k]);
  return all;
}

Exact exact(Sum, const Wide& x) { return sum_of(x); }
Exact exact(SquaredNorm, const Wide& x) { return sum_of(products(x, x)); }
Exact exact(Norm, const Wide& x) {
  const long double root = std::sqrt(sum_of(products(x, x)).value);
  return {root, root};
}
Exact exact(Mean, const Wide& x) {
  const Exact sum = sum_of(x);
  const auto n = static_cast<long double>(x.size());
  return {sum.value / n, sum.magnitude / n};
}
Exact exact(MeanSquare, const Wide& x) { return exact(Mean{}, products(x, x)); }
Exact exact(L1Norm, const Wide& x) {
  const long double sum = sum_of(x).magnitude;
  return {sum, sum};
}
Exact exact(MaxAbs, const Wide& x) {
  long double largest = 0;
  for (const long double value : x) largest = std::max(largest, std::abs(value));
  return {largest, 0};  // no rounding at all
}
Exact exact(Variance, const Wide& x) {
  const long double mean = exact(Mean{}, x).value;
  Wide around = x;
  for (long double& value : around) value -= mean;
  const Exact squares = exact(MeanSquare{}, around);
  return {squares.value, squares.value};
}
Exact exact(Dot, const Wide& x, const Wide& y) { return sum_of(products(x, y)); }
Exact exact(SquaredDistance, const Wide& x, const Wide& y) {
  return exact(SquaredNorm{}, differences(x, y));
}
Exact exact(Distance, const Wide& x, const Wide& y) { return exact(Norm{}, differences(x, y)); }
Exact exact(Cosine, const Wide& x, const Wide& y) {
  const long double both = exact(Norm{}, x).value * exact(Norm{}, y).value;
  return {exact(Dot{}, x, y).value / both, exact(Dot{}, x, y).magnitude / both + 1};
}

template <class F, class... T>
bool close(double result, const std::vector<T>&... streams) {
  const Exact expected = exact(F{}, wide(streams)...);
  const long double allowed = 600 * 0x1p-53L * expected.magnitude;
  return std::abs(static_cast<long double>(result) - expected.value) <= allowed;
}
template <class F, class... T>
void check_close(double result, const std::vector<T>&... streams) {
  INFO("got " << result << ", expected "
              << static_cast<double>(exact(F{}, wide(streams)...).value));
  CHECK(close<F>(result, streams...));
}

/// Around packs, blocks and groups of blocks.
const std::vector<std::size_t> awkward{1,   7,    15,   16,   17,   31,   32,      33,
                                       255, 1000, 4095, 4096, 4097, 8192, 262'144, 270'001};

/// All folds. For types other than float, only the folds that test loading and counting, because
/// all folds compute in double.
template <class T>
void check_folds_of_one() {
  for (const std::size_t size : awkward) {
    INFO(size << " elements");
    const auto x = numbers<T>(size, size);
    check_close<Norm>(reduce<Norm>(x), x);
    check_close<Variance>(reduce<Variance>(x), x);
    CHECK(reduce<AllFinite>(x));
    if constexpr (std::same_as<T, float>) {
      check_close<Sum>(reduce<Sum>(x), x);
      check_close<Mean>(reduce<Mean>(x), x);
      check_close<SquaredNorm>(reduce<SquaredNorm>(x), x);
      check_close<MeanSquare>(reduce<MeanSquare>(x), x);
      check_close<L1Norm>(reduce<L1Norm>(x), x);
      check_close<MaxAbs>(reduce<MaxAbs>(x), x);
    }
  }
}

template <class T, class U>
void check_folds_of_two() {
  for (const std::size_t size : awkward) {
    INFO(size << " elements");
    const auto x = numbers<T>(size, 1);
    const auto y = numbers<U>(size, 2);
    check_close<Cosine>(reduce<Cosine>(x, y), x, y);
    if constexpr (std::same_as<T, U>) {
      check_close<Dot>(reduce<Dot>(x, y), x, y);
      check_close<SquaredDistance>(reduce<SquaredDistance>(x, y), x, y);
      check_close<Distance>(reduce<Distance>(x, y), x, y);
    }
  }
}

/// Weights and gradients in memory that ends where they do.
template <class P>
struct List {
  std::vector<std::vector<P>> weights, slopes;
  Parameters<P> params;
  std::vector<std::int64_t> counter{3};

  explicit List(const std::vector<Shape>& shapes, Order order = Order::row_major) {
    weights.reserve(shapes.size());
    for (const Shape& shape : shapes) {
      const std::string name(1, static_cast<char>('a' + weights.size()));
      weights.push_back(numbers<P>(detail::elements_of(shape, name), weights.size()));
      slopes.push_back(numbers<P>(weights.back().size(), weights.size() + 100));
      params.add(name, weights.back().data(), shape, Role::average, order);
    }
  }
  [[nodiscard]] Gradients<P> gradients() const {
    Gradients<P> all(params);
    for (std::size_t k = 0; k < slopes.size(); ++k) {
      all.set(params[k].name(), slopes[k].data());
    }
    return all;
  }
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all{{5},      {0},      {70, 129}, {9'001}, {3, 5, 7},
                                      {1, 600}, {600, 1}, {257, 3},  {4, 0},  {2, 3, 4, 1030}};
  return all;
}
constexpr ReductionOptions all_options[] = {
    {Per::list, MatrixView::first_by_rest}, {Per::tensor, MatrixView::first_by_rest},
    {Per::row, MatrixView::first_by_rest},  {Per::column, MatrixView::first_by_rest},
    {Per::row, MatrixView::last_two},       {Per::column, MatrixView::last_two}};

/// The results of three folds with one, two and three accumulators, as bits.
template <class P, class E>
std::vector<std::uint64_t> everything(const List<P>& list, E&& executor) {
  const Gradients<P> list_of_gradients = list.gradients();
  const auto gradients = stream_of(list_of_gradients);
  std::vector<std::uint64_t> all;
  const auto append = [&](std::span<const double> results) {
    for (const double result : results) all.push_back(bits::of(result));
  };
  for (const ReductionOptions& options : all_options) {
    Reduction<Norm> norms(list.params, options);
    Reduction<Variance> variances(list.params, options);
    Reduction<Cosine> cosines(list.params, options);
    append(norms(executor, gradients));
    append(variances(executor, list.params));
    append(cosines(executor, list.params, gradients));
  }
  return all;
}

struct LevelCap {
  explicit LevelCap(int level) {
    cap_dispatch_level(level == 0   ? DispatchLevel::baseline
                       : level == 3 ? DispatchLevel::x86_64_v3
                                    : DispatchLevel::x86_64_v4);
  }
  LevelCap(const LevelCap&) = delete;
  LevelCap& operator=(const LevelCap&) = delete;
  ~LevelCap() { cap_dispatch_level(DispatchLevel::x86_64_v4); }
};

/// The index in memory of element `index` of a tensor.
std::size_t place(const Shape& shape, Order order, const std::vector<std::size_t>& index) {
  std::size_t at = 0;
  for (std::size_t j = 0; j < shape.size(); ++j) {
    const std::size_t k = order == Order::row_major ? j : shape.size() - 1 - j;
    at = at * static_cast<std::size_t>(shape[k]) + index[k];
  }
  return at;
}

/// The elements of each row or column of a tensor, in the order of the results.
std::vector<std::vector<double>> lines(const std::vector<double>& values, const Shape& shape,
                                       Order order, const ReductionOptions& options) {
  // The dimensions that are folded: of rows the columns, and the other way round.
  const std::size_t rank = shape.size();
  const bool of_rows = options.per == Per::row;
  std::vector<bool> folded(rank);
  for (std::size_t k = 0; k < rank; ++k) {
    folded[k] = options.view == MatrixView::first_by_rest ? (k == 0) != of_rows
                                                          : k + (of_rows ? 1 : 2) == rank;
  }
  std::vector<std::size_t> index(rank, 0);
  std::vector<std::vector<double>> all;
  Shape kept_shape;
  std::size_t count = 1;
  for (std::size_t k = 0; k < rank; ++k) {
    if (!folded[k]) kept_shape.push_back(shape[k]);
    if (!folded[k]) count *= static_cast<std::size_t>(shape[k]);
  }
  all.resize(count);
  for (std::size_t n = 0; n < values.size(); ++n) {
    std::vector<std::size_t> kept;
    for (std::size_t k = 0; k < rank; ++k) {
      if (!folded[k]) kept.push_back(index[k]);
    }
    all[place(kept_shape, order, kept)].push_back(values[place(shape, order, index)]);
    for (std::size_t k = rank; k-- > 0;) {
      if (++index[k] < static_cast<std::size_t>(shape[k])) break;
      index[k] = 0;
    }
  }
  return all;
}

/// A fold of a method's own, with a number that changes from call to call.
struct CountAbove : Fold<1> {
  double bound = 0;
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& count) const {
    // 1 where x > bound, and 0 for the zeros of the padding where bound >= 0.
    count = count + if_zero(max(x, V(bound)) - V(bound), V(0), V(1));
  }
};

/// What folds read of gradients, computed by hand: in the type that a step computes in.
template <class P>
auto read_by_hand(const std::vector<P>& gradient, double scale, double limit) {
  using C = std::conditional_t<std::same_as<P, double>, double, float>;
  std::vector<C> all;
  for (const P one : gradient) {
    const C scaled = static_cast<C>(one) * static_cast<C>(scale), most = static_cast<C>(limit);
    all.push_back(scaled > most ? most : scaled < -most ? -most : scaled);
  }
  return all;
}

/// The gradients that were multiplied and clipped before, of the same shapes.
template <class C>
struct ByHand {
  std::vector<std::vector<C>> numbers;
  Parameters<C> list;
};

template <class P>
void check_folds_of_read_gradients() {
  using C = std::conditional_t<std::same_as<P, double>, double, float>;
  List<P> list(shapes());
  for (auto& slopes : list.slopes) {  // some as large as the limit, and rounded by the scale
    for (std::size_t k = 0; k < slopes.size(); k += 3) slopes[k] = static_cast<P>(-C(1) / C(3));
  }
  Gradients<P> gradients = list.gradients();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto& [scale, limit] : std::vector<std::pair<double, double>>{
           {0.5, infinity}, {1.0 / 3, 0.125}, {1, 0.25}, {0, infinity}, {0.7, 1e300}}) {
    gradients.scale(scale).clip_value(limit);
    ByHand<C> by_hand;
    by_hand.numbers.reserve(shapes().size());
    for (std::size_t k = 0; k < shapes().size(); ++k) {
      by_hand.numbers.push_back(read_by_hand(list.slopes[k], scale, limit));
      by_hand.list.add(list.params[k].name(), by_hand.numbers[k].data(), shapes()[k]);
    }
    for (const ReductionOptions& options : all_options) {
      INFO("scale " << scale << ", limit " << limit << ", per " << static_cast<int>(options.per)
                    << ", view " << static_cast<int>(options.view));
      const auto same = [&](std::span<const double> a, std::span<const double> b) {
        return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                          [](double x, double y) { return bits::same(x, y); });
      };
      Splitter pieces(Split::pieces);
      for (const int level : levels::supported()) {
        const LevelCap cap(level);
        Reduction<Norm> norms(gradients, options), norms_by_hand(by_hand.list, options);
        CHECK(same(norms(serial, gradients), norms_by_hand(serial, by_hand.list)));
        if constexpr (std::same_as<P, float>) {  // a fold that looks at first elements
          Reduction<Variance> variances(gradients, options), others(by_hand.list, options);
          CHECK(same(variances(pieces, gradients), others(pieces, by_hand.list)));
        }
      }
      // In memory they are as before.
      Reduction<Norm> norms(gradients, options);
      const auto stored = norms(serial, stream_of(gradients));
      const std::vector<double> kept(stored.begin(), stored.end());
      CHECK(same(norms(serial, list.gradients()), kept));
    }
    if constexpr (std::same_as<P, float>) {  // beside another stream, which is read as it is
      for (std::size_t k = 0; k < shapes().size(); ++k) {
        Reduction<Dot> dots(list.params, [k](std::size_t tensor) { return tensor == k; });
        CHECK(bits::same(dots(serial, list.params, gradients)[0],
                         reduce<Dot>(list.weights[k], by_hand.numbers[k])));
      }
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("folds read gradients like a step, with scale and limit", "", float, double,
                   Eigen::bfloat16) {
  check_folds_of_read_gradients<TestType>();
}
TEST_CASE("the norm of clipped gradients is the norm of the gradients that a step reads") {
  List<float> list({{3}, {2, 700}});
  Gradients<float> gradients = list.gradients();
  gradients.scale(0.5);
  const double before = norm(gradients),
               stored = reduce<Norm>(serial, gradients, stream_of(gradients));
  CHECK(before == 0.5 * stored);  // a power of two rounds nothing
  CHECK(clip_norm(gradients, before / 4) == before);
  CHECK(norm(gradients) == before / 4);
  CHECK(clip_norm(gradients, before / 2) == before);  // clipping anew begins from the memory
  std::vector<double> each(2);
  norms(serial, gradients, each);
  CHECK(std::hypot(each[0], each[1]) == Approx(before / 2));
  CHECK(norm_of(serial, gradients, polyak::named("a")) == each[0]);
  gradients.scale(1).clip_value(0.125);
  CHECK(reduce<MaxAbs>(serial, gradients, gradients) == 0.125);
  list.slopes[1][5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(bits::is_nan(norm(gradients)));  // a limit hides no NaN
}

TEST_CASE("folds of one stream agree with long double: float") { check_folds_of_one<float>(); }
TEST_CASE("folds of one stream agree with long double: double") { check_folds_of_one<double>(); }
TEST_CASE("folds of one stream agree with long double: half") { check_folds_of_one<Eigen::half>(); }
TEST_CASE("folds of one stream agree with long double: bfloat16") {
  check_folds_of_one<Eigen::bfloat16>();
}
TEST_CASE("folds of two streams of any types agree with long double") {
  check_folds_of_two<float, float>();
  check_folds_of_two<float, double>();
  check_folds_of_two<Eigen::bfloat16, float>();
  check_folds_of_two<double, Eigen::half>();
}

TEST_CASE("a long tensor can be split anywhere") {
  const auto x = numbers<float>(1'000'003, 5);
  Reduction<Norm> norms(Shape{1'000'003});
  const double expected = norms(serial, x)[0];
  check_close<Norm>(expected, x);
  for (const Split split : {Split::pieces, Split::threads}) {
    Splitter splitter(split);
    CHECK(norms(splitter, x)[0] == expected);
  }
}

TEST_CASE("rows and columns of matrices are folded in both orders and views") {
  const std::vector<Shape> matrices{{1, 1},    {3, 4},       {129, 70},   {4, 5000},     {700, 3},
                                    {3, 5, 7}, {2, 3, 5000}, {300, 2, 2}, {5, 300, 2, 3}};
  for (const Shape& shape : matrices) {
    for (const Order order : {Order::row_major, Order::column_major}) {
      const auto values = numbers<double>(detail::elements_of(shape, "w"), 9);
      for (const ReductionOptions& options : std::span(all_options).subspan(2)) {
        INFO(shape.size() << " dimensions, the first of " << shape[0] << ", order "
                          << static_cast<int>(order) << ", per " << static_cast<int>(options.per)
                          << ", view " << static_cast<int>(options.view));
        const auto expected = lines(values, shape, order, options);
        Reduction<Norm> norms(shape, options, order);
        Reduction<Variance> variances(shape, options, order);
        Reduction<MaxAbs> largest(shape, options, order);
        norms(serial, values);
        variances(serial, values);
        largest(serial, values);
        REQUIRE(norms.results().size() == expected.size());
        REQUIRE(variances.results().size() == expected.size());
        std::size_t wrong = 0;
        for (std::size_t k = 0; k < expected.size(); ++k) {
          wrong += close<Norm>(norms.results()[k], expected[k]) ? 0 : 1;
          wrong += close<Variance>(variances.results()[k], expected[k]) ? 0 : 1;
          wrong += close<MaxAbs>(largest.results()[k], expected[k]) ? 0 : 1;
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("a vector and a scalar are folded as single rows") {
  const std::vector<float> values{3, 4};
  for (const MatrixView view : {MatrixView::first_by_rest, MatrixView::last_two}) {
    Reduction<Norm> row(Shape{2}, {Per::row, view}), columns(Shape{2}, {Per::column, view});
    CHECK(row(serial, values).size() == 1);
    CHECK(row.results()[0] == 5);
    CHECK(columns(serial, values).size() == 2);
    CHECK(columns.results()[1] == 4);
    Reduction<Norm> number(Shape{}, {Per::row, view});
    CHECK(number(serial, std::vector<float>{-2})[0] == 2);
  }
}

TEMPLATE_TEST_CASE("any executor and split gives the bits of one thread", "", float, double,
                   Eigen::bfloat16) {
  for (const Order order : {Order::row_major, Order::column_major}) {
    const List<TestType> list(shapes(), order);
    const auto expected = everything(list, serial);
    for (const unsigned seed : {1u, 2u}) {
      CHECK(everything(list, Splitter(Split::pieces, seed)) == expected);
    }
    CHECK(everything(list, Splitter(Split::threads)) == expected);
#if defined(_OPENMP)
    CHECK(everything(list, OpenMp{3, 0}) == expected);
#endif
  }
}

TEMPLATE_TEST_CASE("all levels with a fused multiply-add give the same bits", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  const List<TestType> list(shapes());
  std::vector<std::uint64_t> expected;
  for (const int level : levels::supported()) {
    if (!levels::rounds_once(level)) continue;
    const LevelCap cap(level);
    const auto results = everything(list, serial);
    if (expected.empty()) expected = results;
    INFO("level " << level);
    CHECK(results == expected);
  }
}

TEST_CASE("a baseline without a fused multiply-add is as accurate") {
  const LevelCap cap(0);
  const auto x = numbers<float>(10'001, 3), y = numbers<float>(10'001, 4);
  check_close<Norm>(reduce<Norm>(x), x);
  check_close<Variance>(reduce<Variance>(x), x);
  check_close<Cosine>(reduce<Cosine>(x, y), x, y);
}

TEST_CASE("folds handle NaN and infinity at every position") {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto usual = bits::of(nan);
  for (const std::size_t size : {std::size_t{1}, std::size_t{33}, std::size_t{9000}}) {
    for (const std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      INFO(size << " elements, number " << at);
      std::vector<float> x(size, 2.0f);
      for (const float sign : {1.0f, -1.0f}) {
        x[at] = std::copysign(static_cast<float>(nan), sign);
        CHECK(bits::of(reduce<MaxAbs>(x)) == usual);
        CHECK(bits::of(reduce<Norm>(x)) == usual);
        CHECK(bits::of(reduce<Variance>(x)) == usual);
        CHECK(bits::of(reduce<L1Norm>(x)) == usual);
        CHECK_FALSE(reduce<AllFinite>(x));
        x[at] = sign * static_cast<float>(inf);
        CHECK(reduce<MaxAbs>(x) == inf);
        CHECK(reduce<Norm>(x) == inf);
        CHECK(reduce<Sum>(x) == static_cast<double>(sign) * inf);
        CHECK(bits::of(reduce<Variance>(x)) == usual);
        CHECK_FALSE(reduce<AllFinite>(x));
      }
      x[at] = -3;
      CHECK(reduce<MaxAbs>(x) == 3);
      CHECK(reduce<AllFinite>(x));
    }
  }
}

TEST_CASE("squares of floats neither overflow nor underflow") {
  const std::vector<float> large{3e38f, -3e38f}, small{1e-45f, 1e-45f};
  CHECK(reduce<Norm>(large) == Approx(std::sqrt(2.0) * static_cast<double>(3e38f)));
  CHECK(reduce<Norm>(small) == Approx(std::sqrt(2.0) * static_cast<double>(1e-45f)));
}

TEST_CASE("the variance of numbers far from 0 is accurate") {
  std::vector<double> x(100'000);
  for (std::size_t k = 0; k < x.size(); ++k) x[k] = 1e9 + (k % 2 == 0 ? 1 : -1);
  CHECK(reduce<Variance>(x) == Approx(1).epsilon(1e-12));
  CHECK(reduce<Variance>(std::vector<double>(5000, 0.1)) == 0);
  // One that is far from all others, in front.
  x.assign(4096, 1.0);
  x[0] = 1e8;
  const double share = 1.0 / 4096;
  CHECK(reduce<Variance>(x) == Approx((1e8 - 1) * (1e8 - 1) * share * (1 - share)).epsilon(1e-12));
}

TEST_CASE("folds of no numbers have their defined results") {
  const std::vector<float> none;
  CHECK(reduce<Norm>(none) == 0);
  CHECK(reduce<Dot>(none, none) == 0);
  CHECK(reduce<MaxAbs>(none) == 0);
  CHECK(std::isnan(reduce<Mean>(none)));
  CHECK(std::isnan(reduce<Variance>(none)));
  CHECK(reduce<AllFinite>(none));
  CHECK(norm(Parameters<float>{}) == 0);
  Reduction<Norm> rows(Shape{3, 0}, {.per = Per::row});
  CHECK(rows(serial, none).size() == 3);
  CHECK(rows.results()[2] == 0);
  Reduction<Norm> columns(Shape{3, 0}, {.per = Per::column});
  CHECK(columns(serial, none).empty());
}

TEST_CASE("a list is folded over its weights, its set gradients or chosen tensors") {
  std::vector<float> a{3}, b{4, 12}, buffer{100}, frozen{84};
  std::vector<std::int64_t> counter{7};
  Parameters params;
  params.add("a", std::span(a)).add("b", std::span(b));
  params.add("buffer", std::span(buffer), Role::copy);
  params.add("counter", std::span(counter), Role::copy);
  params.add("frozen", std::span(frozen), Role::ignore);
  CHECK(norm(params) == 85);
  Gradients gradients(params);
  CHECK(norm(serial, gradients) == 0);
  const std::vector<float> slope{6, 8};
  gradients.set("b", slope);
  CHECK(norm(gradients) == 10);
  CHECK(reduce<Dot>(serial, params, params, gradients) == 4 * 6 + 12 * 8);

  std::vector<double> each(5, -1);
  norms(serial, params, each);
  CHECK(each == std::vector<double>{3, std::sqrt(160.0), 0, 0, 84});
  norms(serial, gradients, each);
  CHECK(each == std::vector<double>{0, 10, 0, 0, 0});

  Reduction<Norm> some(params, [](std::size_t k) { return k == 0 || k == 2; },
                       {.per = Per::tensor});
  CHECK(some(serial, params).size() == 2);
  CHECK(some.results(0)[0] == 3);
  CHECK(some.results(1).empty());
  CHECK(some.results(2)[0] == 100);
  CHECK(some.results(3).empty());
}

TEST_CASE("slots of another type than the weights can be folded") {
  const List<Eigen::bfloat16> list({{40}, {3, 100}});
  Slots<float> slots(list.params.layout(), DType::bfloat16, Kept::averaged, {"first", "second"});
  std::vector<float> flat;
  for (std::size_t k = 0; k < 2; ++k) {
    for (float& value : slots.tensor(1, k))
      flat.push_back(value = 0.5f + static_cast<float>(flat.size() % 7));
  }
  check_close<Norm>(reduce<Norm>(serial, list.params, stream_of(slots, 1)), flat);
  std::vector<Eigen::bfloat16> weights = list.weights[0];
  weights.insert(weights.end(), list.weights[1].begin(), list.weights[1].end());
  check_close<Dot>(reduce<Dot>(serial, list.params, list.params, stream_of(slots, 1)), weights,
                   flat);
}

TEST_CASE("a user's own fold may change its members between calls") {
  const std::vector<float> x{1, 2, 3, 4, 5, -6};
  Reduction<CountAbove> count(Shape{6});
  CHECK(count(serial, x)[0] == 5);
  count.fold().bound = 3;
  CHECK(count(serial, x)[0] == 2);
}

TEST_CASE("a copy of a reduction has results of its own") {
  const std::vector<float> x{3, 4}, y{6, 8};
  Reduction<Norm> first(Shape{2});
  first(serial, x);
  Reduction<Norm> second = first;
  CHECK(second.results()[0] == 5);
  second(serial, y);
  CHECK(first.results()[0] == 5);
  first = second;
  CHECK(first.results()[0] == 10);
}

TEST_CASE("a reduction that is called again allocates nothing") {
  const List<float> list(shapes());
  const Gradients<float> gradients = list.gradients();
  for (const ReductionOptions& options : all_options) {
    Reduction<Norm> norms(list.params, options);
    Reduction<Dot> dots(list.params, options);
    const allocations::Counter counter;
    norms(serial, list.params);
    norms(serial, gradients);
    dots(serial, list.params, gradients);
    CHECK(counter.counts().number == 0);
  }
}

TEST_CASE("a reduction refuses other lists and sizes") {
  const List<float> list({{2, 3}}), other({{3, 2}});
  Reduction<Norm> norms(list.params), array(Shape{4});
  const std::vector<float> five(5);
  CHECK(refuses([&] { norms(serial, other.params); }, {"reduc", "[3, 2]", "[2, 3]"}));
  CHECK(refuses([&] { norms(serial, five); }, {"size of the reduction", "5"}));
  CHECK(refuses([&] { array(serial, five); }, {"size of the reduction", "5"}));
  CHECK(refuses([&] { array(serial, list.params); }, {"single arrays"}));
  CHECK(refuses([&] { Reduction<Norm>(list.params, {.per = static_cast<Per>(9)}); },
                {"ReductionOptions.per", "9"}));
  CHECK(refuses([&] { Reduction<Norm>(Shape{1}, {.view = static_cast<MatrixView>(9)}); },
                {"ReductionOptions.view", "9"}));
  CHECK(refuses([&] { Reduction<Norm>(Shape{-1}); }, {"-1"}));
  std::vector<double> two(2);
  CHECK(refuses([&] { polyak::norms(serial, list.params, two); }, {"norms()", "2"}));
  CHECK(norms(serial, List<float>({{2, 3}}).params)[0] > 0);  // an equal layout will do
}

}  // namespace reduce_test
