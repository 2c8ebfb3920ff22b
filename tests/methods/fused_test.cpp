// SPDX-License-Identifier: Apache-2.0
// Every optimizer and every average in one call with others: one call equals one for each, to the
// last bit.
#include <functional>
#include <string>
#include <tuple>
#include <utility>

#include <polyak/optim/adamw.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"
#include "../support/fused.hpp"
#include "../support/methods.hpp"

namespace fused_test {

namespace {

using fused::check;
using fused::Scripted;
using List = polyak::Parameters<float>;

/// The method between two averages.
template <class O>
void check_optimizer(const std::string& name, const std::function<O(const List&)>& make) {
  check<float>("average, " + name + ", average", [&](const List& params) {
    return std::tuple(Scripted<float>(params, 3), make(params), Scripted<float>(params, 0));
  });
}
/// The method after an optimizer and an average. It comes last, because some methods change the
/// weights after the sweep.
template <class A>
void check_average(const std::string& name, const std::function<A(const List&)>& make) {
  check<float>("Sgd, average, " + name, [&](const List& params) {
    return std::tuple(polyak::Sgd(params, {.learning_rate = 0.1, .momentum = 0.9}),
                      Scripted<float>(params, 1), make(params));
  });
}

constexpr auto optimizer = [](const methods::Method& method, auto make) {
  check_optimizer<methods::made_t<float, decltype(make)>>(std::string(method.name), make);
};
constexpr auto average = [](const methods::Method& method, auto make) {
  check_average<methods::made_t<float, decltype(make)>>(std::string(method.name), make);
};

}  // namespace

TEST_CASE("fused equals separate: every optimizer") {
  methods::for_each_optimizer<float>(optimizer);
  methods::for_each_schedule_free<float>(optimizer);
}

TEST_CASE("fused equals separate: every average") {
  methods::for_each_average<float>(average);
  methods::for_each_window<float>(average);
}

TEST_CASE("fused equals separate: an optimizer at every place among averages") {
  using polyak::AdamW;
  using Average = Scripted<float>;
  const polyak::AdamWOptions options{.learning_rate = 0.1};
  check<float>("AdamW, average", [&](const List& params) {
    return std::tuple(AdamW(params, options), Average(params, 0));
  });
  check<float>("average, AdamW", [&](const List& params) {
    return std::tuple(Average(params, 1), AdamW(params, options));
  });
  check<float>("AdamW, 3 averages", [&](const List& params) {
    return std::tuple(AdamW(params, options), Average(params, 0), Average(params, 1),
                      Average(params, 3));
  });
}

}  // namespace fused_test
