// SPDX-License-Identifier: Apache-2.0
// Averages of selected tensors: for these tensors they have the same bits as an average of all
// tensors, and they do not touch, store or return the others.
#include <polyak/core/tensors/selection.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/io.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/polyak.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/methods.hpp"
#include "../support/model.hpp"
#include "../support/refuses.hpp"
#include "../support/temporary_folder.hpp"

namespace selection_test {

namespace {

using namespace polyak;
using Bytes = std::vector<std::byte>;

const std::vector<std::size_t> sizes{5, 70, 0, 33, 160};
const Selection some = named("tensor 1", "tensor 4", "statistics");  // buffers are copied anyway

bool taken(std::size_t tensor) { return tensor == 1 || tensor == 4; }

template <class M>
Bytes slots_of(const M& method, std::size_t tensor) {
  Bytes all;
  for (std::size_t slot = 0; slot < method.slots().count(); ++slot) {
    const Bytes one = bits::bytes(method.slots().tensor(slot, tensor));
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

/// Copies the weights of one model to another.
template <class P>
void give(const Model<P>& from, Model<P>& to) {
  to.restore(from.bytes());
}

template <class M>
using Maker = std::function<M(const Parameters<typename M::Parameter>&, const Selection&)>;

/// `make(params, selection)` returns an average whose slots are stored plainly or with
/// compensation. The test runs it on all tensors and on some.
template <class M>
void check(const std::string& name, const Maker<M>& make) {
  using P = typename M::Parameter;
  INFO(name);
  Model<P> whole_model(sizes, true), model(sizes, true), target(sizes, true);
  auto whole = make(whole_model.params, Selection());
  auto part = make(model.params, some);
  const MemoryReport all_memory = whole.memory_report(), memory = part.memory_report();
  REQUIRE(memory.slots.size() == all_memory.slots.size());
  for (std::size_t slot = 0; slot < memory.slots.size(); ++slot) {
    CHECK(memory.slots[slot].elements == 70 + 160);
    CHECK(all_memory.slots[slot].elements == 5 + 70 + 33 + 160);
  }
  CHECK(memory.total < all_memory.total);
  constexpr std::uint64_t calls = 13;
  for (std::uint64_t call = 0; call < calls; ++call) {
    for (Model<P>* const each : {&whole_model, &model}) {
      each->differentiate(call);
      each->wander(call);
    }
    std::array<Bytes, 6> before;
    for (std::size_t k = 0; k < 6; ++k) before[k] = model.tensor_bytes(k);
    whole.update(whole_model.params);
    part.update(model.params);
    for (std::size_t k = 0; k < 6; ++k) {
      INFO("call " << call << ", tensor " << k);
      if (taken(k)) {
        CHECK(slots_of(part, k) == slots_of(whole, k));
        CHECK(model.tensor_bytes(k) == whole_model.tensor_bytes(k));
      } else {
        CHECK(slots_of(part, k).empty());
        CHECK(model.tensor_bytes(k) == before[k]);
      }
    }
  }
  CHECK(model.margins_intact());
  // Readable: the tensors of the selection, and the buffers.
  REQUIRE(part.ready());
  if constexpr (requires { part.view(); }) {
    CHECK_THROWS_AS(part.view()["tensor 0"], std::invalid_argument);
    CHECK(part.view()["tensor 1"].size() == 70);
  }
  target.wander(90);
  const Bytes own = model.bytes();
  std::array<Bytes, 6> before;
  for (std::size_t k = 0; k < 6; ++k) before[k] = target.tensor_bytes(k);
  Model<P> whole_target(sizes, true);
  if constexpr (requires { part.copy_to(target.params); }) {
    part.copy_to(target.params);
    whole.copy_to(whole_target.params);
  } else {
    part.copy_to(target.params, 1);
    whole.copy_to(whole_target.params, 1);
  }
  for (std::size_t k = 0; k < 6; ++k) {
    CHECK(target.tensor_bytes(k) == (taken(k) ? whole_target.tensor_bytes(k) : before[k]));
  }
  for (const char* const buffer : {"statistics", "counters"}) {
    const auto in = [&](const Model<P>& of) {
      const auto& tensor = of.params.at(buffer);
      const auto* const raw = static_cast<const std::byte*>(tensor.raw());
      return Bytes(raw, raw + tensor.bytes());
    };
    CHECK(in(target) == in(whole_target));
  }
  {
    const auto guard = [&] {
      if constexpr (requires { part.swap_into(model.params); }) {
        return part.swap_into(model.params);
      } else {
        return part.swap_into(model.params, 1);
      }
    }();
    for (std::size_t k = 0; k < 6; ++k) {
      if (taken(k)) {
        CHECK(model.tensor_bytes(k) == whole_target.tensor_bytes(k));
      }
    }
    CHECK(model.tensor_bytes(0) == bits::bytes(model.params[0].data(), 5));
  }
  CHECK(model.bytes() == own);
  // Saved and restored, copied, moved.
  const TemporaryFolder folder;
  const std::string file = folder.file("run.safetensors");
  polyak::save(file, {.metadata = {}, .durable = false}, model.params, part);
  Model<P> again_model(sizes, true);
  auto again = make(again_model.params, some);
  polyak::load(file, again_model.params, again);
  CHECK(state_bytes(again) == state_bytes(part));
  auto all_again = make(again_model.params, Selection());
  CHECK(refuses([&] { polyak::load(file, again_model.params, all_again); }, {"tensor 0"}));
  auto other = make(again_model.params, named("tensor 1"));
  CHECK(refuses([&] { polyak::load(file, again_model.params, other); }, {"tensor 4"}));
  M copied = part;
  M moved = std::move(again);
  for (std::uint64_t call = calls; call < calls + 3; ++call) {
    std::array<Bytes, 3> states, weights;
    std::array<M*, 3> methods{&part, &copied, &moved};
    for (std::size_t k = 0; k < 3; ++k) {
      Model<P> fresh(sizes, true);
      give(model, fresh);
      fresh.wander(call);
      methods[k]->update(fresh.params);
      states[k] = state_bytes(*methods[k]);
      weights[k] = fresh.bytes();
    }
    CHECK(states[1] == states[0]);
    CHECK(states[2] == states[0]);
    CHECK(weights[1] == weights[0]);
    CHECK(weights[2] == weights[0]);
  }
  CHECK(refuses([&] { make(model.params, named("nothing")); }, {"nothing", "\"tensor 0\""}));
  CHECK(refuses([&] { make(model.params, named("ignored")); }, {"ignored"}));
}

/// Every average of the list whose tensors do not depend on each other.
void check_all(Accumulate accumulate) {
  const auto use = [](const methods::Method& method, auto make) {
    if (method.couples.empty()) {
      check<methods::made_t<float, decltype(make)>>(std::string(method.name), make);
    }
  };
  methods::for_each_average<float>(use, accumulate);
  methods::for_each_window<float>(use, accumulate);
  check<Aswa<float>>("Aswa of all iterates", [=](const Parameters<float>& p, const Selection& s) {
    return Aswa<float>(p, {.filter = AswaFilter::all, .accumulate = accumulate}, s);
  });
}

}  // namespace

TEST_CASE("averages with a selection have the bits of averages of all tensors") {
  check_all(Accumulate::plain);
}

TEST_CASE("averages with a selection and compensation have the bits of averages of all tensors") {
  check_all(Accumulate::kahan);
}

TEST_CASE(
    "averages with a selection in double and in 16 bits have the bits of averages of all tensors") {
  check<Ema<float>>("Ema in double", [](const Parameters<float>& p, const Selection& s) {
    return Ema<float>(p, {.decay = 0.75, .accumulate = Accumulate::float64}, s);
  });
  using Eigen::bfloat16;
  check<Ema<bfloat16>>("Ema of bfloat16", [](const Parameters<bfloat16>& p, const Selection& s) {
    return Ema<bfloat16>(p, {.decay = 0.75}, s);
  });
}

TEST_CASE("Aswa computes the norms of the selected tensors only") {
  Model<float> model(sizes, true), whole_model(sizes, true);
  const AswaOptions options{.filter = AswaFilter::mean_norm};
  Aswa<float> part(model.params, options, some);
  AswaOptions of_these = options;
  of_these.normed = {"tensor 1", "tensor 4"};
  Aswa<float> whole(whole_model.params, of_these);
  // Tensors that are not averaged may hold anything.
  model.params[0].data()[1] = std::numeric_limits<float>::quiet_NaN();
  for (std::uint64_t call = 0; call < 8; ++call) {
    model.wander(call);
    whole_model.wander(call);
    part.update(model.params);
    whole.update(whole_model.params);
    CHECK(part.accepted() == whole.accepted());
    CHECK(part.norm() == whole.norm());
    CHECK(slots_of(part, 4) == slots_of(whole, 4));
  }
  CHECK(part.averaged() > 0);
}

TEST_CASE("a NaN in weights that no average keeps is ignored") {
  for (const Nonfinite policy : {Nonfinite::skip_step, Nonfinite::error}) {
    Model<float> model(sizes, true);
    Ema<float> average(model.params, {.decay = 0.75, .nonfinite = policy}, some);
    model.params[3].data()[7] = std::numeric_limits<float>::infinity();
    CHECK(average.update(model.params));
    model.params[1].data()[7] = std::numeric_limits<float>::infinity();
    if (policy == Nonfinite::skip_step) {
      CHECK_FALSE(average.update(model.params));
      CHECK(average.skipped() == 1);
    } else {
      CHECK_THROWS_AS(average.update(model.params), nonfinite_error);
    }
    CHECK(average.calls() == 1);
  }
}

TEST_CASE("an average keeps its selection when the model grows") {
  std::vector<float> a(5, 1), b(7, 2), c(3, 3);
  Parameters<float> before, after;
  before.add("a", a).add("b", b);
  after.add("c.a", c).add("a", a).add("b", b);
  Ema<float> average(before, {.decay = 0.5}, named("*a"));
  a.assign(5, 3);
  average.update(before);
  average.grow(after);
  CHECK(average.memory_report().slots[0].elements == 8);
  CHECK(average.view()["a"][0] == 2);
  CHECK(average.view()["c.a"][0] == 3);
  CHECK_THROWS_AS(average.view()["b"], std::invalid_argument);
}

TEST_CASE("an average of some tensors is saved with the weights of the others") {
  const TemporaryFolder folder;
  const std::string file = folder.file("average.safetensors");
  Model<float> model(sizes, true), loaded(sizes, true), target(sizes, true);
  Ema<float> average(model.params, {.decay = 0.75}, some);
  model.wander(0);
  average.update(model.params);
  model.wander(1);
  save_average(file, model.params, average, {.durable = false});
  loaded.wander(7);
  load_weights(file, loaded.params);
  average.copy_to(target.params);
  for (std::size_t k = 0; k < 6; ++k) {
    CHECK(loaded.tensor_bytes(k) == (taken(k) ? target : model).tensor_bytes(k));
  }
}

TEST_CASE("snapshots of selected tensors are reconstructed like those of all tensors") {
  for (const Accumulate accumulate : {Accumulate::plain, Accumulate::kahan}) {
    Model<float> model(sizes, true), target(sizes, true), whole_target(sizes, true);
    PowerEma<float> part(model.params, {.gamma = 3, .accumulate = accumulate}, some);
    PowerEma<float> whole(model.params, {.gamma = 3, .accumulate = accumulate});
    PosthocEma<float> posthoc, whole_posthoc;
    const TemporaryFolder folder;
    SnapshotStore store(folder.file("store"), {.durable = false});
    for (std::uint64_t call = 0; call < 12; ++call) {
      model.wander(call);
      update(model.params, part, whole);
      if (call % 4 != 3) continue;
      posthoc.snapshot(part);
      whole_posthoc.snapshot(whole);
      store.append("part", part);
    }
    PosthocTarget wanted;
    wanted.gamma = 5;
    const auto solution = posthoc.solve(wanted);
    const Bytes untouched = target.tensor_bytes(0);
    posthoc.reconstruct(solution, target.params);
    whole_posthoc.reconstruct(whole_posthoc.solve(wanted), whole_target.params);
    for (std::size_t k = 0; k < 6; ++k) {
      if (taken(k)) CHECK(target.tensor_bytes(k) == whole_target.tensor_bytes(k));
    }
    CHECK(target.tensor_bytes(0) == untouched);
    const std::size_t count = posthoc.snapshots().size();
    model.wander(50);
    update(model.params, part, whole);
    CHECK(refuses([&] { posthoc.snapshot(whole); }, {"\"tensor 0\"", "same tensors"}));
    CHECK(refuses([&] { whole_posthoc.snapshot(part); }, {"\"tensor 0\"", "same tensors"}));
    CHECK(posthoc.snapshots().size() == count);
    CHECK(refuses([&] { store.append("whole", whole); }, {"tensor 0"}));
    // From the folder: the tensors of the snapshots, and the buffers.
    const SafetensorsFile file(store.snapshots().back().file);
    std::vector<std::string> names;
    for (const auto& tensor : file.tensors()) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    CHECK(names == std::vector<std::string>{"counters", "statistics", "tensor 1", "tensor 4"});
  }
}

}  // namespace selection_test
