// SPDX-License-Identifier: Apache-2.0
// The sweep over one tensor: every pair of types, every way of storing slots, every size, alignment
// and level.
#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/sweep_battery.hpp"

namespace sweep_types_test {

namespace {

using Eigen::bfloat16;
using Eigen::half;
using polyak::detail::BoundLaw;
using polyak::detail::carrier_t;
using polyak::detail::Kahan;
using polyak::detail::Plain;
using polyak::detail::Stochastic;
using sweep_battery::check;

template <class P, class S>
void trains() {
  using Law = sweep_battery::TrainingProbe<S>;
  check<P>("training", BoundLaw<Law, S>{.law = {S(0.75), S(0.3)}});
}
template <template <class> class Law, class P, class S, template <class> class StoredAs>
void one(const char* name) {
  using T = carrier_t<S>;
  BoundLaw<Law<T>, S, StoredAs> bound{.law = {T(0.3)}};
  if constexpr (requires { bound.key.seed; }) bound.key.seed = 5;
  check<P>(name, bound);
}
template <class P, class S, template <class> class StoredAs = Plain>
void averages() {
  one<sweep_battery::AveragingProbe, P, S, StoredAs>("averaging");
}
template <class P, class S, template <class> class StoredAs = Plain>
void exchanges() {
  one<sweep_battery::ExchangingProbe, P, S, StoredAs>("exchanging");
}
template <class P, class S, template <class> class StoredAs = Plain>
void reads() {
  one<sweep_battery::ReadingProbe, P, S, StoredAs>("reading");
}

}  // namespace

TEMPLATE_TEST_CASE("sweep: a law that trains, state of float", "", float, half, bfloat16) {
  trains<TestType, float>();
}
TEMPLATE_TEST_CASE("sweep: a law that trains, state of double", "", float, double, half, bfloat16) {
  trains<TestType, double>();
}

TEMPLATE_TEST_CASE("sweep: a law that averages", "", float, half, bfloat16) {
  averages<TestType, float>();
  averages<TestType, double>();
  averages<TestType, half>();
  averages<TestType, bfloat16>();
}
TEST_CASE("sweep: a law that averages doubles") { averages<double, double>(); }

TEMPLATE_TEST_CASE("sweep: averages with compensation", "", float, half, bfloat16) {
  averages<TestType, float, Kahan>();
  averages<TestType, half, Kahan>();
  averages<TestType, bfloat16, Kahan>();
}

TEMPLATE_TEST_CASE("sweep: averages rounded at random", "", float, half, bfloat16) {
  averages<TestType, half, Stochastic>();
  averages<TestType, bfloat16, Stochastic>();
}

TEST_CASE("sweep: laws that exchange weights and slots") {
  exchanges<float, float>();
  exchanges<float, double>();
  exchanges<half, float>();
  exchanges<bfloat16, bfloat16>();
  exchanges<float, float, Kahan>();
  exchanges<bfloat16, half, Kahan>();
  exchanges<float, bfloat16, Stochastic>();
}

TEST_CASE("sweep: laws that write the weights from slots") {
  reads<float, float>();
  reads<bfloat16, double>();
  reads<float, float, Kahan>();
}

}  // namespace sweep_types_test
