// SPDX-License-Identifier: Apache-2.0
// Groups, selections, gradient scale and value limit on a device: the bits of the host, in one
// launch whatever the laws of the tensors.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"
#include "graph.hpp"
#include "twin.hpp"

namespace device_tests::groups_test {

using namespace polyak;
using twin::refuses;

namespace {

/// Three groups in one optimizer.
template <class M>
std::tuple<M> grouped(M optimizer) {
  optimizer.group(named("tensor 1", "ignored"), {.learning_rate_factor = 0.5})
      .group(named("tensor 4"), {.learning_rate_factor = 2, .weight_decay_factor = 0});
  return std::tuple<M>(std::move(optimizer));
}

}  // namespace

TEST_CASE("groups on a device give the bits of the host") {
  twin::check<float>("AdamW", []<class P>(const Parameters<P>& p) { return grouped(AdamW<P>(p)); });
  twin::check<float>("AdamW with a coupled decay", []<class P>(const Parameters<P>& p) {
    return grouped(AdamW<P>(p, {.coupled_weight_decay = 0.1}));
  });
  twin::check<float>("AdEMAMix", []<class P>(const Parameters<P>& p) {
    return grouped(AdEMAMix<P>(p, {.alpha_warmup = 5, .beta3_warmup = 5}));
  });
  twin::check<float>("ScheduleFreeAdamW", []<class P>(const Parameters<P>& p) {
    return grouped(ScheduleFreeAdamW<P>(p, {.weight_decay = 0.1}));
  });
  twin::check<float>("Sgd", []<class P>(const Parameters<P>& p) {
    return grouped(Sgd<P>(p, {.learning_rate = 0.1, .momentum = 0.9}));
  });
  twin::check<double>("double",
                      []<class P>(const Parameters<P>& p) { return grouped(AdamW<P>(p)); });
  twin::check<Eigen::bfloat16>("bfloat16", []<class P>(const Parameters<P>& p) {
    return grouped(AdamW<P>(p, {.learning_rate = 0.01}));
  });
}

TEST_CASE(
    "groups, frozen tensors, selections and averages with selections share one step on a device") {
  twin::check<float>("two optimizers and two averages", []<class P>(const Parameters<P>& p) {
    auto all =
        std::tuple(AdamW<P>(p, {}, !named("tensor 1")),
                   Sgd<P>(p, {.learning_rate = 0.1}, named("tensor 1")), Ema<P>(p, {.decay = 0.9}),
                   SwitchEma<P>(p, {.decay = 0.75, .unit = SwitchUnit::iterations, .interval = 3},
                                named("tensor 0", "tensor 1")));
    std::get<0>(all)
        .group(named("tensor 3"), {.frozen = true})
        .group(named("ignored", "tensor 0"), {.learning_rate_factor = 0.25});
    return all;
  });
}

TEST_CASE("tensors with different laws take one launch") {
  for (const bool with_average : {false, true}) {
    Both both;
    AdamW here(both.model.params);
    AdamW there(both.device.params);
    Ema average_here(both.model.params, {.decay = 0.9});
    Ema average_there(both.device.params, {.decay = 0.9});
    const Selection all[] = {named("tensor 0"), named("tensor 1"), named("tensor 3"),
                             named("ignored")};
    double factor = 1;
    for (const Selection& one : all) {
      factor /= 2;
      here.group(one, {.learning_rate_factor = factor});
      there.group(one, {.learning_rate_factor = factor});
    }
    for (std::uint64_t k = 0; k < 5; ++k) {
      both.model.differentiate(k, k == 0 ? std::set<std::size_t>{4} : std::set<std::size_t>{});
      both.device.take_gradients(both.model.params, both.model.gradients);
      const auto launches = both.executor.launches();
#if defined(POLYAK_CUDA_EMULATION)
      auto calls = emulation::machine().calls;
#endif
      if (with_average) {
        step(both.model.params, both.model.gradients, here, average_here);
        step(both.executor, both.device.params, both.device.gradients, there, average_there);
      } else {
        step(both.model.params, both.model.gradients, here);
        step(both.executor, both.device.params, both.device.gradients, there);
      }
      if (k >
          2) {  // the scalars, and the pass; with an average, the ignored tensor and the buffers
        CHECK(both.executor.launches() - launches == (with_average ? 4 : 2));
#if defined(POLYAK_CUDA_EMULATION)
        for (const char* const call : {"cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync",
                                       "cudaStreamSynchronize", "cudaEventSynchronize"}) {
          CHECK(emulation::machine().calls[call] == calls[call]);
        }
#endif
      }
      both.check_weights();
      twin::check_state(here, state_bytes(there));
    }
  }
}

TEST_CASE("groups can change between steps on a device, and unfrozen tensors restart") {
  Both both;
  AdEMAMix here(both.model.params, {.learning_rate = 0.1});
  AdEMAMix there(both.device.params, {.learning_rate = 0.1});
  for (std::uint64_t k = 0; k < 9; ++k) {
    const auto change = [&](const Selection& selection, const GroupOptions& group) {
      here.group(selection, group);
      there.group(selection, group);
    };
    if (k == 2) change(named("tensor 1", "tensor 4"), {.frozen = true});
    if (k == 4) change(named("tensor 1"), {.weight_decay_factor = 3});
    if (k == 6) change(named("*"), {});
    both.differentiate(k);
    step(both.model.params, both.model.gradients, here);
    step(both.device.params, both.device.gradients, there);
    both.check_weights();
    twin::check_state(here, state_bytes(there));
  }
}

TEST_CASE("lists of thousands of tensors in groups take one launch") {
  const cuda::Executor executor;
  const std::size_t count = 3000;
  cuda::Buffer<float> weights(executor, 8 * count),
      gradients(executor, std::vector<float>(8 * count, 1));
  cuda::Parameters<float> params(executor);
  for (std::size_t k = 0; k < count; ++k) {
    params.add((k % 3 == 0 ? "a" : "b") + std::to_string(k), weights.data() + 8 * k, {7});
  }
  cuda::Gradients<float> all(params);
  for (std::size_t k = 0; k < count; ++k) all.set_at(k, std::span(gradients.data() + 8 * k, 7));
  AdamW optimizer(params, {.learning_rate = 0.5, .weight_decay = 0});
  optimizer.group(named("a*"), {.learning_rate_factor = 2});
  optimizer.step(params, all);
  const auto launches = executor.launches();
  optimizer.step(params, all);
  CHECK(executor.launches() - launches == 2);
  const auto host = weights.download();
  std::size_t wrong = 0;
  for (std::size_t k = 0; k < host.size(); ++k) {
    const float expected = k % 8 == 7 ? 0.0f : k / 8 % 3 == 0 ? -2.0f : -1.0f;
    if (host[k] > expected + 1e-5f || host[k] < expected - 1e-5f) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("replays of a captured step use the laws of the groups") {
  Graph g;
  AdamW here(g.model.params);
  AdamW there(g.device.params);
  Ema average_here(g.model.params, {.decay = 0.9});
  Ema average_there(g.device.params, {.decay = 0.9});
  const auto change = [&](const Selection& selection, const GroupOptions& group) {
    here.group(selection, group);
    there.group(selection, group);
  };
  change(named("tensor 1"), {.learning_rate_factor = 0.5});
  change(named("tensor 4"), {.learning_rate_factor = 0.25, .weight_decay_factor = 2});
  g.differentiate(0);
  step(g.model.params, g.model.gradients, here, average_here);
  step(g.device.params, g.device.gradients, there, average_there);
  cuda::CapturedStep again(g.executor, g.device.params, g.device.gradients, there, average_there);
  g.capture(again);
  for (std::uint64_t k = 1; k < 8; ++k) {
    g.differentiate(k);
    here.at(0.01 / static_cast<double>(k));
    there.at(0.01 / static_cast<double>(k));
    if (k == 4) change(named("tensor 1"), {.learning_rate_factor = 0.75});
    g.model.gradients.scale(1.0 / static_cast<double>(k)).clip_value(0.3);
    g.device.gradients.scale(1.0 / static_cast<double>(k)).clip_value(0.3);
    step(g.model.params, g.model.gradients, here, average_here);
    if (k == 3) {  // an ordinary step between two replays
      step(g.device.params, g.device.gradients, there, average_there);
    } else {
      again.prepare();
      g.replay();
    }
    g.check_weights();
    twin::check_state(here, state_bytes(there));
    twin::check_state(average_here, state_bytes(average_there));
  }
  // More laws than were recorded, or other tensors, are another step.
  const auto count = there.count();
  there.group(named("tensor 0"), {.learning_rate_factor = 8});
  CHECK(refuses([&] { again.prepare(); }, "other passes"));
  there.group(named("tensor 0"), {.frozen = true});
  CHECK(refuses([&] { again.prepare(); }, "other passes"));
  CHECK(there.count() == count);
}

TEST_CASE("steps and captured steps on a device refuse tensors that two optimizers own") {
  Both both;
  AdamW first(both.device.params, {}, named("tensor 0", "tensor 1"));
  AdamW second(both.device.params, {}, named("tensor 1", "tensor 4"));
  both.differentiate(0);
  CHECK(refuses([&] { step(both.device.params, both.device.gradients, first, second); },
                "own tensor \"tensor 1\""));
  CHECK(refuses(
      [&] {
        cuda::CapturedStep(both.executor, both.device.params, both.device.gradients, first, second);
      },
      "own tensor \"tensor 1\""));
  CHECK(first.count() == 0);
}

TEST_CASE("scale and value limit on a device give the bits of the host") {
  Both both;
  AdamW here(both.model.params);
  AdamW there(both.device.params);
  Ema average_here(both.model.params, {.decay = 0.9});
  Ema average_there(both.device.params, {.decay = 0.9});
  double scale = 1;
  for (std::uint64_t k = 0; k < 6; ++k) {
    both.differentiate(k);
    for (auto set : {0, 1}) {
      const double limit = k < 3 ? 0.2 : std::numeric_limits<double>::infinity();
      if (set == 0) {
        both.model.gradients.scale(scale).clip_value(limit);
      } else {
        both.device.gradients.scale(scale).clip_value(limit);
      }
    }
    step(both.model.params, both.model.gradients, here, average_here);
    step(both.device.params, both.device.gradients, there, average_there);
    both.check_weights();
    twin::check_state(here, state_bytes(there));
    twin::check_state(average_here, state_bytes(average_there));
    scale /= 3;
  }
}

TEST_CASE("a NaN on a device counts only in tensors of the step") {
  for (const Nonfinite policy : {Nonfinite::skip_step, Nonfinite::error}) {
    Both both;
    const auto optimizer_of = [&]<class P>(const Parameters<P>& params) {
      AdamW<P> optimizer(params, {.nonfinite = policy}, !named("tensor 1"));
      optimizer.group(named("tensor 3"), {.frozen = true});
      return optimizer;
    };
    auto here = optimizer_of(both.model.params);
    auto there = optimizer_of(both.device.params);
    for (const std::size_t bad : {std::size_t{1}, std::size_t{3}, std::size_t{4}}) {
      both.model.differentiate(bad);
      const_cast<float*>(both.model.gradients[bad])[2] = std::numeric_limits<float>::infinity();
      both.device.take_gradients(both.model.params, both.model.gradients);
      both.model.gradients.clip_value(0.1);  // hides nothing
      both.device.gradients.clip_value(0.1);
      if (bad == 4 && policy == Nonfinite::error) {
        CHECK_THROWS_AS(step(both.model.params, both.model.gradients, here), nonfinite_error);
        CHECK_THROWS_AS(step(both.device.params, both.device.gradients, there), nonfinite_error);
      } else {
        CHECK(step(both.model.params, both.model.gradients, here) == (bad != 4));
        CHECK(step(both.device.params, both.device.gradients, there));
      }
    }
    CHECK(cuda::settle(both.executor, there) == (policy == Nonfinite::skip_step));
    both.check_weights();
    CHECK(there.count() == 2);
    CHECK(there.skipped() == here.skipped());
    twin::check_state(here, state_bytes(there));
  }
}

}  // namespace device_tests::groups_test
