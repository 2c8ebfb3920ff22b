// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/ema.hpp>
#include <polyak/average/engine/swap.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/sgd.hpp>

#include <Eigen/Core>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace swap_test {

namespace {

using polyak::Parameters;
using polyak::Role;

/// A model of one type with weights, a tied weight, a free tensor and two buffers.
template <class P>
struct Model {
  std::vector<P> a, b, free;
  std::vector<float> statistics{0.5f, 2};
  std::int64_t counter = 7;
  Parameters<P> params;

  explicit Model(std::uint32_t seed) : a(1001), b(6), free(3) {
    change(seed);
    params.add("a", a)
        .add("b", b, {2, 3})
        .add("tied", b, {2, 3})
        .add("free", free, Role::ignore)
        .add("statistics", statistics, Role::copy)
        .add("counter", &counter, {1}, Role::copy);
  }
  void change(std::uint32_t seed) {
    RandomNumbers random(seed);
    for (auto* tensor : {&a, &b, &free}) {
      for (P& number : *tensor) number = static_cast<P>(static_cast<float>(random()));
    }
    statistics = {static_cast<float>(seed), 1};
    counter = static_cast<std::int64_t>(seed);
  }
  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> all;
    for (const auto& part :
         {bytes_of(a), bytes_of(b), bytes_of(free), bytes_of(statistics), bytes_of(&counter)}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
};

/// A model and its average, which was updated with two iterates; the model is at a third.
template <class P, class S>
struct Averaged {
  Model<P> model{1};
  polyak::Ema<P, S> ema{model.params, {.decay = 0.75}};
  Averaged() {
    for (const std::uint32_t seed : {2u, 3u}) {
      model.change(seed);
      ema.update(model.params);
    }
    model.change(4);
    model.a[0] = static_cast<P>(-0.0f);  // bits that arithmetic would lose
    model.a[1] = static_cast<P>(static_cast<float>(nan_value));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("under a guard the model holds the average, and afterwards its own bits",
                   "[swap]", (std::pair<float, float>), (std::pair<double, double>),
                   (std::pair<float, double>), (std::pair<Eigen::half, float>),
                   (std::pair<Eigen::bfloat16, float>), (std::pair<Eigen::bfloat16, double>)) {
  using P = typename TestType::first_type;
  using S = typename TestType::second_type;
  Averaged<P, S> run;
  auto& model = run.model;
  auto& ema = run.ema;
  const auto weights = model.bytes();
  const auto state = polyak::state_bytes(ema);
  Model<P> read(9);
  ema.copy_to(read.params);

  for (int round = 0; round < 3; ++round) {
    const auto free = bytes_of(model.free);
    std::vector<S> average(ema.view()["a"].begin(), ema.view()["a"].end());
    {
      const auto guard = ema.swap_into(model.params);
      CHECK(model.params.swapped());
      CHECK(bytes_of(model.a) == bytes_of(read.a));
      CHECK(bytes_of(model.b) == bytes_of(read.b));
      for (std::size_t k = 0; k < average.size(); ++k) {
        P rounded = model.a[k];
        polyak::detail::narrow_into(&rounded, 0, average[k]);
        REQUIRE(bytes_of(&rounded) == bytes_of(&model.a[k]));
      }
      CHECK(bytes_of(model.free) == free);
      CHECK(model.statistics == std::vector<float>{3, 1});  // the last ones that the average read
      CHECK(model.counter == 3);
      CHECK(model.bytes() != weights);
    }
    CHECK_FALSE(model.params.swapped());
    CHECK(model.bytes() == weights);
    CHECK(polyak::state_bytes(ema) == state);
  }
}

TEST_CASE("an exception ends a guard and restores the weights", "[swap]") {
  Averaged<float, float> same;
  Averaged<Eigen::half, float> narrow;
  const auto same_weights = same.model.bytes(), narrow_weights = narrow.model.bytes();
  try {
    const auto one = same.ema.swap_into(same.model.params);
    const auto two = narrow.ema.swap_into(narrow.model.params);
    CHECK(same.model.bytes() != same_weights);
    CHECK(narrow.model.bytes() != narrow_weights);
    throw std::runtime_error("evaluation failed");
  } catch (const std::runtime_error&) {
  }
  CHECK(same.model.bytes() == same_weights);
  CHECK(narrow.model.bytes() == narrow_weights);
  CHECK(same.ema.update(same.model.params));
}

TEST_CASE("a guard can be moved and restored early, and restores only once", "[swap]") {
  Averaged<float, float> run;
  auto& model = run.model;
  auto& ema = run.ema;
  const auto weights = model.bytes();
  std::optional<polyak::SwapGuard> outer;
  {
    auto guard = ema.swap_into(model.params);
    outer.emplace(std::move(guard));
  }  // the moved-from guard does nothing
  CHECK(model.params.swapped());
  CHECK(model.bytes() != weights);
  outer->restore();
  CHECK(model.bytes() == weights);
  CHECK_FALSE(model.params.swapped());
  outer->restore();
  CHECK(model.bytes() == weights);
  outer.reset();
  CHECK(model.bytes() == weights);

  // Assigning to a guard ends its previous swap.
  Averaged<float, float> other;
  const auto other_weights = other.model.bytes();
  auto guard = ema.swap_into(model.params);
  guard = other.ema.swap_into(other.model.params);
  CHECK(model.bytes() == weights);
  CHECK_FALSE(model.params.swapped());
  CHECK(other.model.bytes() != other_weights);
  auto& itself = guard;
  guard = std::move(itself);
  CHECK(other.model.params.swapped());
  guard.restore();
  CHECK(other.model.bytes() == other_weights);
}

TEST_CASE("a guard outlives its method", "[swap]") {
  Averaged<float, float> same;
  Averaged<float, double> wide;
  for (const bool destroy : {false, true}) {
    const auto same_weights = same.model.bytes(), wide_weights = wide.model.bytes();
    auto ema = std::make_unique<polyak::Ema<float>>(same.ema);
    auto wide_ema = std::make_unique<polyak::Ema<float, double>>(wide.ema);
    std::optional<polyak::Ema<float>> moved;
    {
      const auto guard = ema->swap_into(same.model.params);
      const auto wide_guard = wide_ema->swap_into(wide.model.params);
      CHECK(same.model.bytes() != same_weights);
      if (!destroy) moved.emplace(std::move(*ema));
      ema.reset();
      wide_ema.reset();
    }
    CHECK(same.model.bytes() == same_weights);
    CHECK(wide.model.bytes() == wide_weights);
    if (moved) CHECK(polyak::state_bytes(*moved) == polyak::state_bytes(same.ema));
  }
}

TEST_CASE("a guard outlives the parameter list it was made from", "[swap]") {
  Averaged<float, float> run;
  auto& model = run.model;
  auto& ema = run.ema;
  const auto weights = model.bytes();
  {
    auto list = std::make_unique<Parameters<float>>(model.params);
    const auto guard = ema.swap_into(*list);
    list.reset();
    CHECK(model.params.swapped());  // copies of a list share the mark
    CHECK(model.bytes() != weights);
  }
  CHECK(model.bytes() == weights);
}

TEMPLATE_TEST_CASE("steps, updates and second guards are refused while an average is swapped in",
                   "[swap]", float, double) {
  using S = TestType;
  constexpr bool exchanged = std::is_same_v<S, float>;
  Averaged<float, S> run, other;
  auto& model = run.model;
  auto& ema = run.ema;
  polyak::Ema<float> second(model.params);
  polyak::Sgd<float> optimizer(model.params, {.learning_rate = 1});
  polyak::Gradients<float> grads(model.params);
  std::vector<float> gradient(model.a.size(), 1);
  grads.set("a", gradient);
  const auto state = polyak::state_bytes(ema);
  const auto weights = model.bytes(), others = other.model.bytes();
  {
    const auto guard = ema.swap_into(model.params);
    const auto held = model.bytes();
    const auto refused = [](auto&& call) {
      CHECK(refusal<std::logic_error>(call).find("swapped in") != std::string::npos);
    };
    refused([&] { auto nested = ema.swap_into(model.params); });
    refused([&] { auto nested = ema.swap_into(model.params, polyak::or_current); });
    refused([&] { auto nested = second.swap_into(model.params, polyak::or_current); });
    refused([&] { ema.update(model.params); });
    refused([&] { second.update(model.params); });
    refused([&] { optimizer.step(model.params, grads); });
    refused([&] { polyak::step(model.params, grads, optimizer, second); });
    refused([&] { other.ema.copy_to(model.params); });
    refused([&] { polyak::Ema<float> begun(model.params); });
    refused([&] {
      float more = 0;
      model.params.add("more", &more, {1});
    });
    if constexpr (exchanged) {  // the average's own memory holds the weights
      refused([&] { static_cast<void>(ema.view()); });
      refused([&] { ema.copy_to(other.model.params); });
      refused([&] { auto nested = ema.swap_into(other.model.params); });
      refused([&] { ema.update(other.model.params); });
      refused([&] { polyak::Ema<float, S> copy = ema; });
      refused([&] { static_cast<void>(polyak::state_bytes(ema)); });
      refused([&] { polyak::restore_state(ema, state); });
    }
    CHECK(model.bytes() == held);
  }
  CHECK(model.bytes() == weights);
  CHECK(other.model.bytes() == others);
  CHECK(polyak::state_bytes(ema) == state);
  CHECK(optimizer.count() == 0);
  CHECK(second.calls() == 0);
  CHECK(optimizer.step(model.params, grads));
  CHECK(ema.update(model.params));
}

TEST_CASE("a guard of one list stops every list that views the same memory", "[swap]") {
  std::vector<float> w(64, 1), other(8, 1), gradient(64, 1);
  polyak::Parameters<float> all, again, part, apart;
  all.add("w", w).add("none", w.data() + 60, {0});  // which must not hide the memory behind it
  again.add("weights", std::span(w));
  part.add("tail", w.data() + 60, {4}).add("other", other);
  apart.add("other", other);
  polyak::Ema<float> ema(all, {.decay = 0.5}), ema_again(again), ema_part(part), ema_apart(apart);
  polyak::Sgd<float> sgd(again, {.learning_rate = 0.5});
  const auto grads = polyak::like(again, gradient);
  ema.update(all);
  w.assign(64, 3);
  ema.update(all);
  ema_again.update(again);
  ema_part.update(part);
  ema_apart.update(apart);
  const auto refused = [](auto&& call) {
    return !refusal<std::logic_error>([&] { static_cast<void>(call()); }).empty();
  };
  {
    auto guard = ema.swap_into(all);
    const auto moved = std::move(guard);
    CHECK(w == std::vector<float>(64, 2));
    CHECK(again.swapped());
    CHECK(part.swapped());
    CHECK_FALSE(apart.swapped());
    CHECK(refused([&] { return sgd.step(again, grads); }));
    CHECK(refused([&] { return polyak::step(again, grads, sgd, ema_again); }));
    CHECK(refused([&] { return ema_again.update(again); }));
    CHECK(refused([&] { return ema_again.swap_into(again); }));
    CHECK(refused([&] { return ema_part.swap_into(part); }));
    CHECK(refused([&] { return ema_part.update(part); }));
    CHECK(refused([&] { return ema_again.copy_to(again), 0; }));
    CHECK(refused([&] { return polyak::soft_update(part, part, 0.5), 0; }));
    CHECK(refused([&] {
      polyak::Ema<float> late(again);
      return 0;
    }));
    CHECK(sgd.count() == 0);
    ema_apart.update(apart);
    const auto second = ema_apart.swap_into(apart);
    CHECK(apart.swapped());
  }
  CHECK(w == std::vector<float>(64, 3));
  CHECK_FALSE(again.swapped());
  CHECK_FALSE(part.swapped());
  CHECK_FALSE(apart.swapped());
  sgd.step(again, grads);
  CHECK(w == std::vector<float>(64, 2.5F));
  const auto guard = ema_part.swap_into(part);
  CHECK(all.swapped());
}

TEST_CASE("an average that was never updated is not readable without or_current", "[swap]") {
  Model<float> model(1);
  polyak::Ema<float> ema(model.params);
  const auto weights = model.bytes();
  CHECK(refusal<std::logic_error>([&] { auto guard = ema.swap_into(model.params); }) ==
        "polyak: the average was never updated; ask for the current weights with or_current if "
        "that is meant");
  CHECK_FALSE(model.params.swapped());
  {
    const auto guard = ema.swap_into(model.params, polyak::or_current);
    CHECK(model.params.swapped());
    CHECK(model.bytes() == weights);
    CHECK(refusal<std::logic_error>([&] { ema.update(model.params); }).find("swapped in") !=
          std::string::npos);
  }
  CHECK_FALSE(model.params.swapped());
  CHECK(model.bytes() == weights);

  model.change(2);
  ema.update(model.params);
  model.change(3);
  const auto changed = model.bytes();
  {
    const auto guard = ema.swap_into(model.params, polyak::or_current);
    CHECK(model.bytes() != changed);  // now there is one
  }
  CHECK(model.bytes() == changed);
}

TEST_CASE("aliases are swapped once", "[swap]") {
  std::vector<float> tied{2, 4};
  Parameters<float> params;
  params.add("embedding", tied).add("head", tied);
  polyak::Ema ema(params, {.decay = 0.5});
  tied = {4, 8};
  ema.update(params);
  CHECK(ema.view()["head"].data() == ema.view()["embedding"].data());
  CHECK(ema.view()["head"](1) == 6);
  {
    const auto guard = ema.swap_into(params);
    CHECK(tied == std::vector<float>{3, 6});
  }
  CHECK(tied == std::vector<float>{4, 8});
}

}  // namespace swap_test
