// SPDX-License-Identifier: Apache-2.0
// The sweep over lists: tables of laws, loops that methods share and loops that they have alone,
// tensors that some methods leave out, and any split, against single numbers.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/sweep.hpp>
#include <polyak/core/tensors/slots.hpp>

#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/sweep_battery.hpp"

namespace sweep_test {

namespace {

using polyak::detail::BoundLaw;
using polyak::detail::carrier_t;
using polyak::detail::GradientReading;
using polyak::detail::Kahan;
using polyak::detail::Loop;
using polyak::detail::Plain;
using polyak::detail::Stochastic;
using polyak::detail::swept_together;
using Bytes = std::vector<std::byte>;

/// The ignored tensor comes after them: trained, but not averaged.
const std::vector<std::size_t> sizes{
    5, swept_together + 800, 0, 33, swept_together - 1, 3 * swept_together, 70};

/// Three methods on one model: an optimizer whose laws differ by tensor, and two averages.
template <class P, class S, template <class> class StoredAs>
struct Methods {
  using Plan = polyak::detail::SweepPlan<Loop<P>>;
  using Trains = BoundLaw<sweep_battery::TrainingProbe<float>, float>;
  using Averages = BoundLaw<sweep_battery::AveragingProbe<float>, float>;
  using T = carrier_t<S>;
  using Third = BoundLaw<sweep_battery::ExchangingProbe<T>, S, StoredAs>;

  Model<P> model{sizes, true};
  polyak::Slots<float> moments = slots<float>(polyak::Kept::trained, 2, 1);
  polyak::Slots<float> averages = slots<float>(polyak::Kept::averaged, 2, 2);
  polyak::Slots<S> third = slots<S>(polyak::Kept::averaged, Third::arrays, 3);
  const std::array<sweep_battery::TrainingProbe<float>, 3> table{
      {{0.75F, 0.3F}, {0.5F, 0.1F}, {0.25F, -0.2F}}};
  std::vector<std::uint32_t> which;
  Trains trains = polyak::detail::bind_law(table[0], moments);
  Averages follows = polyak::detail::bind_law(sweep_battery::AveragingProbe<float>{0.3F}, averages);
  Third exchanges =
      polyak::detail::bind_law<StoredAs>(sweep_battery::ExchangingProbe<T>{T(0.3)}, third);

  Methods() {
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      which.push_back(static_cast<std::uint32_t>(k % table.size()));
    }
    trains.table = table.data();
    trains.stride = sizeof table[0];
    trains.which = which.data();
    if constexpr (requires { exchanges.key.seed; }) exchanges.key.seed = 5;
    model.differentiate(1, {4});
  }

  /// One pass in pieces, by a loop of all methods where `shared` allows it.
  void sweep(int level, bool shared, std::uint64_t chosen, const GradientReading& reading,
             const std::vector<std::pair<std::size_t, std::size_t>>& pieces) {
    const auto takes = [&](int i) { return (chosen >> i & 1) != 0; };
    using polyak::detail::loop_of;
    const std::array<typename Plan::Single, 3> singles{
        {{moments.offsets(), takes(0), true, loop_of<true, P>(trains)},
         {averages.offsets(), takes(1), false, loop_of<false, P>(follows)},
         {third.offsets(), takes(2), false, loop_of<false, P>(exchanges)}}};
    using polyak::detail::sweep_together;
    const void* const three[] = {&trains, &follows, &exchanges};
    const void* const two[] = {&follows, &exchanges};
    const std::array<typename Plan::Shared, 2> together{
        {{7, shared, {sweep_together<P, Trains, Averages, Third>, three}},
         {6, shared, {sweep_together<P, Averages, Third>, two}}}};
    const Plan plan{singles.data(), singles.size(), together.data(), together.size()};
    for (const auto& [begin, end] : pieces) {
      polyak::detail::sweep_range<P>(level, plan, polyak::ParameterAccess<P>::memory(model.params),
                                     model.params.size(), model.gradients.data(), reading, begin,
                                     end);
    }
  }
  /// Elements that any method runs on.
  [[nodiscard]] std::size_t elements(std::uint64_t chosen) const {
    std::size_t sum = 0;
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      if (any(chosen, k)) sum += model.params[k].size();
    }
    return sum;
  }

  void run_on_numbers(int level, std::uint64_t chosen, const GradientReading& reading) {
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      if (!any(chosen, k)) continue;
      P* const x = model.params[k].data();
      const std::size_t size = model.params[k].size();
      const P* const gradient = model.gradients[k];
      const auto run = [&](const auto& bound) {
        sweep_battery::run_on_numbers<P>(level, bound, k, x, gradient, reading, size);
      };
      if (runs(chosen, 0, k)) run(trains);
      if (runs(chosen, 1, k)) run(follows);
      if (runs(chosen, 2, k)) run(exchanges);
    }
  }

  [[nodiscard]] std::vector<Bytes> bytes() const {
    std::vector<Bytes> all{model.bytes()};
    const auto add = [&](const auto& slots) {
      for (std::size_t slot = 0; slot < slots.count(); ++slot) {
        for (std::size_t k = 0; k < model.params.size(); ++k) {
          if (slots.keeps(k)) all.push_back(bits::bytes(slots.tensor(slot, k)));
        }
      }
    };
    add(moments);
    add(averages);
    add(third);
    return all;
  }

 private:
  [[nodiscard]] bool runs(std::uint64_t chosen, int method, std::size_t k) const {
    if ((chosen >> method & 1) == 0) return false;
    return method == 0 ? moments.keeps(k) && model.gradients[k] != nullptr : averages.keeps(k);
  }
  [[nodiscard]] bool any(std::uint64_t chosen, std::size_t k) const {
    return runs(chosen, 0, k) || runs(chosen, 1, k) || runs(chosen, 2, k);
  }
  template <class X>
  [[nodiscard]] polyak::Slots<X> slots(polyak::Kept kept, int count, std::uint64_t seed) const {
    std::vector<std::string> names;
    for (int n = 0; n < count; ++n) names.push_back("slot " + std::to_string(n));
    polyak::Slots<X> all(model.params.layout(), polyak::detail::dtype_of<P>(), kept, names);
    for (std::size_t n = 0; n < names.size(); ++n) {
      for (std::size_t k = 0; k < model.params.size(); ++k) {
        if (!all.keeps(k)) continue;
        X* const first = all.data(n) + all.offset(k);
        for (std::size_t i = 0; i < model.params[k].size(); ++i) {
          first[i] = static_cast<X>(static_cast<float>(bits::uniform(i + 100 * k, seed + 10 * n)));
          if (kept == polyak::Kept::trained) first[i] = first[i] * first[i];  // has a square root
        }
      }
    }
    return all;
  }
};

/// Ranges that cover all elements, in random order.
[[nodiscard]] std::vector<std::pair<std::size_t, std::size_t>> cut(std::size_t elements,
                                                                   unsigned pieces) {
  std::mt19937 random(pieces);
  std::vector<std::size_t> cuts{0, elements};
  for (unsigned k = 1; k < pieces; ++k) cuts.push_back(random() % (elements + 1));
  std::sort(cuts.begin(), cuts.end());
  std::vector<std::pair<std::size_t, std::size_t>> list;
  for (std::size_t k = 0; k + 1 < cuts.size(); ++k) list.emplace_back(cuts[k], cuts[k + 1]);
  std::shuffle(list.begin(), list.end(), random);
  return list;
}

template <class P, class S, template <class> class StoredAs>
void check() {
  constexpr std::uint64_t all = 7;
  for (const int level : levels::supported()) {
    for (const std::uint64_t chosen : {all, std::uint64_t{1}, std::uint64_t{5}, std::uint64_t{6}}) {
      // Scaled, scaled and clipped, or as they are.
      GradientReading reading;
      if (chosen == all) reading.scale = 1.0 / 3;
      if (chosen == 5) reading = {.scale = 3, .limit = 0.5};
      Methods<P, S, StoredAs> expected;
      const auto before = expected.bytes();
      expected.run_on_numbers(level, chosen, reading);
      REQUIRE(expected.bytes() != before);
      for (const bool shared : {true, false}) {
        for (const unsigned pieces : {1U, 9U}) {
          Methods<P, S, StoredAs> methods;
          const Bytes gradients = methods.model.gradient_bytes();
          methods.sweep(level, shared, chosen, reading, cut(methods.elements(chosen), pieces));
          INFO("level " << level << ", methods " << chosen << ", shared " << shared << ", "
                        << pieces << " pieces");
          const bool equal = methods.bytes() == expected.bytes();
          CHECK(equal);
          CHECK(methods.model.margins_intact());
          CHECK(methods.model.gradient_bytes() == gradients);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("sweep over a list: float, and averages with compensation") {
  check<float, float, Kahan>();
}
TEST_CASE("sweep over a list: float, and averages of double") { check<float, double, Plain>(); }
TEST_CASE("sweep over a list: bfloat16, and averages rounded at random") {
  check<Eigen::bfloat16, Eigen::bfloat16, Stochastic>();
}

}  // namespace sweep_test
