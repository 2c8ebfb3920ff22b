// SPDX-License-Identifier: Apache-2.0
/// @file
/// The battery for methods. All comparisons are bit for bit: tensors, selections, executor, pauses
/// and copies do not change a method's results.
///
/// Above 300 lines: the checks share one training of a method without its type.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <polyak/average/switch_ema.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/io/save.hpp>

#include "allocations.hpp"
#include "bits.hpp"
#include "catch.hpp"
#include "methods.hpp"
#include "model.hpp"
#include "splitter.hpp"
#include "temporary_folder.hpp"

namespace method_battery {

using Bytes = std::vector<std::byte>;

/// A method, without its type.
template <class P>
class AnyMethod {
 public:
  virtual ~AnyMethod() = default;
  virtual bool run(Splitter& splitter, const polyak::Parameters<P>& params,
                   const polyak::Gradients<P>& gradients) = 0;
  /// Puts the second tensor of an optimizer into a group of its own, and freezes the third.
  virtual void regroup() = 0;
  /// Changes learning rate or pace as a user would between two steps.
  virtual void vary() = 0;
  /// Goes on with another list, by grow() or shrink().
  virtual void grow(const polyak::Parameters<P>& params) = 0;
  virtual void shrink(const polyak::Parameters<P>& params) = 0;
  /// Resets the moments. Returns false where a method has none.
  virtual bool reset() = 0;
  [[nodiscard]] virtual Bytes state() = 0;
  virtual void restore(const Bytes& bytes) = 0;
  /// Saves the method with its model in a file, and loads both from it.
  virtual void save(const std::string& path, const polyak::Parameters<P>& params) = 0;
  virtual void load(const std::string& path, const polyak::Parameters<P>& params) = 0;
  [[nodiscard]] virtual std::unique_ptr<AnyMethod> copied() const = 0;
  [[nodiscard]] virtual std::unique_ptr<AnyMethod> moved() = 0;
  /// Becomes a copy of another method of the same type.
  virtual void assign(const AnyMethod& other) = 0;
  [[nodiscard]] virtual polyak::MemoryReport memory() const = 0;
  /// The elements of each slot, one tensor after the other.
  [[nodiscard]] virtual std::vector<Bytes> slots() const = 0;
  /// The elements of one tensor, one slot after the other.
  [[nodiscard]] virtual Bytes tensor(std::size_t index) const = 0;
};

/// With `Files` it can be saved and loaded, and grow and shrink, which is slow to compile.
template <class M, bool Files>
class Holder final : public AnyMethod<typename M::Parameter> {
  using P = typename M::Parameter;

 public:
  explicit Holder(M method) : method_(std::move(method)) {}

  bool run(Splitter& splitter, const polyak::Parameters<P>& params,
           const polyak::Gradients<P>& gradients) override {
    if constexpr (M::trains) {
      return polyak::step(splitter, params, gradients, method_);
    } else {
      static_cast<void>(gradients);
      const bool complete = polyak::update(splitter, params, method_);
      if constexpr (requires { method_.begin_epoch(params); }) {  // an epoch is three calls
        if (method_.weighting().made_with.unit == polyak::SwitchUnit::epochs &&
            method_.calls() % 3 == 0) {
          method_.begin_epoch(params);
        }
      }
      return complete;
    }
  }
  void regroup() override {
    if constexpr (M::trains) {
      method_
          .group(polyak::named("tensor 1", "ignored"),
                 {.learning_rate_factor = 0.75, .weight_decay_factor = 0.5})
          .group(polyak::named("tensor 2"), {.frozen = true});
    }
  }
  void vary() override {
    if constexpr (M::trains) {
      method_.at(method_.learning_rate() * 0.9375);
    } else if constexpr (requires { method_.at(1); }) {
      method_.at(1.0 + static_cast<double>(method_.calls() % 3));
    }
  }
  void grow(const polyak::Parameters<P>& params) override {
    if constexpr (Files) {
      method_.grow(params);
    } else {
      FAIL("the battery of types does not grow: " << params.size());
    }
  }
  void shrink(const polyak::Parameters<P>& params) override {
    if constexpr (Files) {
      method_.shrink(params);
    } else {
      FAIL("the battery of types does not shrink: " << params.size());
    }
  }
  bool reset() override {
    if constexpr (requires { method_.reset_moments(); }) {
      const std::int64_t steps = method_.count();
      const double rate = method_.learning_rate();
      method_.reset_moments();
      CHECK(method_.count() == steps);
      CHECK(method_.learning_rate() == rate);
      return true;
    } else {
      return false;
    }
  }
  Bytes state() override { return polyak::state_bytes(method_); }
  void restore(const Bytes& bytes) override { polyak::restore_state(method_, bytes); }
  void save(const std::string& path, const polyak::Parameters<P>& params) override {
    if constexpr (Files) {
      polyak::save(path, {.metadata = {}, .durable = false}, params, method_);
    } else {
      FAIL("the battery of types does not save: " << path << ", " << params.size());
    }
  }
  void load(const std::string& path, const polyak::Parameters<P>& params) override {
    if constexpr (Files) {
      polyak::load(path, params, method_);
    } else {
      FAIL("the battery of types does not load: " << path << ", " << params.size());
    }
  }
  std::unique_ptr<AnyMethod<P>> copied() const override {
    return std::make_unique<Holder>(method_);
  }
  std::unique_ptr<AnyMethod<P>> moved() override {
    return std::make_unique<Holder>(std::move(method_));
  }
  void assign(const AnyMethod<P>& other) override {
    method_ = static_cast<const Holder&>(other).method_;
  }
  polyak::MemoryReport memory() const override { return method_.memory_report(); }
  std::vector<Bytes> slots() const override {
    std::vector<Bytes> list;
    for (std::size_t slot = 0; slot < method_.slots().count(); ++slot) {
      list.emplace_back();
      for (std::size_t k = 0; k < method_.slots().layout()->tensors.size(); ++k) {
        append(list.back(), bits::bytes(method_.slots().tensor(slot, k)));
      }
    }
    return list;
  }
  Bytes tensor(std::size_t index) const override {
    Bytes all;
    for (std::size_t slot = 0; slot < method_.slots().count(); ++slot) {
      append(all, bits::bytes(method_.slots().tensor(slot, index)));
    }
    return all;
  }

 private:
  static void append(Bytes& all, const Bytes& more) {
    all.insert(all.end(), more.begin(), more.end());
  }
  M method_;
};

/// A method with its options.
template <class P>
struct Entry {
  methods::Method method;
  std::string name;
  using Make = std::unique_ptr<AnyMethod<P>>(const polyak::Parameters<P>&,
                                             const polyak::Selection&);
  std::function<Make> make;
  bool trains;
  double scale = 1, limit = std::numeric_limits<double>::infinity();  ///< of the gradients
};

/// The same in groups, with gradients that are scaled and clipped.
template <class P>
[[nodiscard]] Entry<P> grouped(const Entry<P>& entry) {
  Entry<P> other = entry;
  other.name += ", in groups";
  other.make = [make = entry.make](const polyak::Parameters<P>& params,
                                   const polyak::Selection& selection) {
    auto method = make(params, selection);
    method->regroup();
    return method;
  };
  other.scale = 1.0 / 3;
  other.limit = 0.1;
  return other;
}

/// Collects the entries of a list of methods.
template <class P, bool Files>
[[nodiscard]] auto collect(std::vector<Entry<P>>& entries) {
  return [&entries](const methods::Method& method, auto make) {
    using M = methods::made_t<P, decltype(make)>;
    entries.push_back(
        {method, std::string(method.name),
         [make](const polyak::Parameters<P>& params, const polyak::Selection& selection) {
           return std::make_unique<Holder<M, Files>>(make(params, selection));
         },
         M::trains});
  };
}

/// One method on one model.
template <class P>
struct Training {
  Model<P> model;
  std::unique_ptr<AnyMethod<P>> method;
  Splitter splitter;
  bool trains;

  Training(const Entry<P>& entry, const std::vector<std::size_t>& sizes, bool extras = false,
           Split split = Split::whole)
      : model(sizes, extras),
        method(entry.make(model.params, {})),
        splitter(split),
        trains(entry.trains) {
    model.gradients.scale(entry.scale).clip_value(entry.limit);
  }

  /// Prepares a step without running it.
  void prepare(std::uint64_t step, const std::set<std::size_t>& without = {}) {
    model.differentiate(step, without);
    if (!trains) model.wander(step);
  }
  void run() {
    if (!method->run(splitter, model.params, model.gradients)) FAIL_CHECK("a step was skipped");
  }
  void step(std::uint64_t number, const std::set<std::size_t>& without = {}) {
    prepare(number, without);
    run();
    method->vary();
  }
  [[nodiscard]] bool equals(Training& other) {
    return model.bytes() == other.model.bytes() && method->state() == other.method->state();
  }
};

template <class P>
void check_tensors(const Entry<P>& entry) {
  // The second: slots large enough to be laid out for the cache.
  for (const auto& sizes : {std::vector<std::size_t>{0, 1, 31, 32, 33, 0, 64, 42, 0},
                            std::vector<std::size_t>{17, 19983}}) {
    Training<P> one(entry, {std::accumulate(sizes.begin(), sizes.end(), std::size_t{0})});
    Training<P> several(entry, sizes);
    for (std::uint64_t step = 0; step < 8; ++step) {
      one.step(step);
      several.step(step);
      if (one.model.bytes() != several.model.bytes() ||
          one.method->slots() != several.method->slots()) {
        FAIL_CHECK(entry.name << ": the way tensors divide the memory matters, step " << step);
        break;
      }
    }
  }
}

template <class P>
void check_executors(const Entry<P>& entry) {
  const std::vector<std::size_t> sizes{5, 0, 203, 64, 1000};
  Training<P> whole(entry, sizes, true);
  Training<P> pieces(entry, sizes, true, Split::pieces);
  Training<P> threads(entry, sizes, true, Split::threads);
  for (std::uint64_t step = 0; step < 7; ++step) {
    const std::set<std::size_t> without =
        step % 3 == 1 ? std::set<std::size_t>{2} : std::set<std::size_t>{};
    whole.prepare(step, without);
    const Bytes gradients = whole.model.gradient_bytes();
    whole.run();
    if (whole.model.gradient_bytes() != gradients) FAIL_CHECK(entry.name << ": wrote a gradient");
    whole.method->vary();
    pieces.step(step, without);
    threads.step(step, without);
    if (!whole.equals(pieces)) FAIL_CHECK(entry.name << ": pieces matter, step " << step);
    if (!whole.equals(threads)) FAIL_CHECK(entry.name << ": threads matter, step " << step);
  }
  if (!whole.model.margins_intact() || !pieces.model.margins_intact()) {
    FAIL_CHECK(entry.name << ": wrote beside the weights");
  }
}

template <class P>
void check_resume(const Entry<P>& entry) {
  constexpr std::uint64_t steps = 11;
  const std::vector<std::size_t> sizes{5, 70, 33};
  const auto without = [](std::uint64_t step) {
    return step == 4 || step == 5 ? std::set<std::size_t>{1} : std::set<std::size_t>{};
  };
  Training<P> run(entry, sizes, true);
  const TemporaryFolder folder;
  std::vector<std::string> files;
  std::vector<Bytes> weights, states;
  std::vector<std::unique_ptr<AnyMethod<P>>> copies;
  for (std::uint64_t step = 0; step < steps; ++step) {
    weights.push_back(run.model.bytes());
    states.push_back(run.method->state());
    copies.push_back(run.method->copied());
    files.push_back(folder.file(std::to_string(step) + ".safetensors"));
    run.method->save(files.back(), run.model.params);
    run.step(step, without(step));
  }
  for (std::uint64_t pause = 0; pause < steps; ++pause) {
    const auto goes_on = [&](const char* how, auto resume) {
      Training<P> resumed(entry, sizes, true);
      resumed.model.wander(99);  // restored below
      resumed.method = entry.make(resumed.model.params, {});
      resumed.model.restore(weights[pause]);
      resume(resumed);
      for (std::uint64_t step = pause; step < steps; ++step) resumed.step(step, without(step));
      if (!resumed.equals(run)) FAIL_CHECK(entry.name << ": " << how << " after " << pause);
    };
    goes_on("restored from its bytes",
            [&](auto& resumed) { resumed.method->restore(states[pause]); });
    goes_on("assigned from a copy", [&](auto& resumed) { resumed.method->assign(*copies[pause]); });
    goes_on("copied", [&](auto& resumed) { resumed.method = copies[pause]->copied(); });
    goes_on("moved", [&](auto& resumed) { resumed.method = copies[pause]->moved(); });
    goes_on("loaded", [&](auto& resumed) {
      resumed.model.wander(98);
      resumed.method->load(files[pause], resumed.model.params);
    });
  }
  Bytes short_state = run.method->state();
  short_state.pop_back();
  const Bytes before = run.method->state();
  CHECK_THROWS_AS(run.method->restore(short_state), std::invalid_argument);
  if (run.method->state() != before) FAIL_CHECK(entry.name << ": a refused state left traces");
}

/// Two methods that share the tensors of a list between them, against one for the whole list.
template <class P>
void check_selections(const Entry<P>& entry) {
  const std::vector<std::size_t> sizes{5, 70, 0, 203, 33, 64};
  const polyak::Selection selection = polyak::named("tensor 1", "tensor 4", "tensor 5");
  const auto selected = [](std::size_t tensor) {
    return tensor == 1 || tensor == 4 || tensor == 5;
  };
  Training<P> whole(entry, sizes, true), shared(entry, sizes, true);
  shared.method = entry.make(shared.model.params, selection);
  const auto other = entry.make(shared.model.params, !selection);
  for (std::uint64_t step = 0; step < 9; ++step) {
    const std::set<std::size_t> without =
        step % 4 == 2 ? std::set<std::size_t>{1, 3} : std::set<std::size_t>{};
    whole.step(step, without);
    shared.step(step, without);
    if (!other->run(shared.splitter, shared.model.params, shared.model.gradients)) {
      FAIL_CHECK(entry.name << ": a step was skipped");
    }
    other->vary();
    if (whole.model.bytes() != shared.model.bytes()) {
      FAIL_CHECK(entry.name << ": weights differ where two share them, step " << step);
    }
    for (std::size_t k = 0; k < whole.model.trained(); ++k) {
      const AnyMethod<P>& owner = selected(k) ? *shared.method : *other;
      const AnyMethod<P>& none = selected(k) ? *other : *shared.method;
      if (owner.tensor(k) != whole.method->tensor(k)) {
        FAIL_CHECK(entry.name << ": the state of tensor " << k << " depends on others, step "
                              << step);
      }
      if (!none.tensor(k).empty()) FAIL_CHECK(entry.name << ": state of another's tensor " << k);
    }
  }
}

/// Tensors without a gradient, of methods that train.
template <class P>
void check_gaps(const Entry<P>& entry) {
  Training<P> run(entry, {5, 70, 33}, true);
  const std::size_t resting = 1;
  for (std::uint64_t step = 0; step < 9; ++step) {
    const bool rests = step < 2 || (step >= 4 && step < 7);
    const Bytes weights = run.model.tensor_bytes(resting);
    const Bytes state = run.method->tensor(resting);
    run.step(step, rests ? std::set<std::size_t>{resting} : std::set<std::size_t>{});
    const bool same =
        run.model.tensor_bytes(resting) == weights && run.method->tensor(resting) == state;
    if (same != rests) FAIL_CHECK(entry.name << ": a tensor without gradient, step " << step);
  }
}

/// A tensor whose training begins late is trained as if it were alone. Not for methods with one
/// clock for all tensors.
template <class P>
void check_late_start(const Entry<P>& entry) {
  constexpr std::uint64_t late = 4, steps = 10;
  Training<P> run(entry, {64, 70});
  Training<P> alone(entry, {64, 70});  // its first tensor never has a gradient
  for (std::uint64_t step = 0; step < steps; ++step) {
    run.prepare(step, step < late ? std::set<std::size_t>{1} : std::set<std::size_t>{});
    run.run();
    if (step < late) continue;
    alone.prepare(step, {0});
    alone.run();
    if (run.model.tensor_bytes(1) != alone.model.tensor_bytes(1) ||
        run.method->tensor(1) != alone.method->tensor(1)) {
      FAIL_CHECK(entry.name << ": a tensor that joins late, step " << step);
    }
  }
}

/// A method on lists of a model that has one tensor more, or less, from some step on.
template <class P>
struct ListTraining {
  static constexpr std::size_t changing = 1;  ///< the tensor that comes or goes
  Model<P> model{{5, 70, 33}, true};
  const Bytes before = model.tensor_bytes(changing);
  Splitter splitter{Split::whole};
  bool trains, last;
  std::unique_ptr<AnyMethod<P>> method;

  /// The tensor is `last` in the list of all, or else the second.
  ListTraining(const Entry<P>& entry, bool all)
      : trains(entry.trains), last(entry.method.by_tensor), method(entry.make(list(all), {})) {}

  [[nodiscard]] polyak::Parameters<P> list(bool all) const {
    polyak::Parameters<P> some;
    const auto add = [&](std::size_t k) {
      const polyak::TensorInfo& info = model.params[k].info();
      void* const memory = model.params[k].raw();
      if (info.dtype == polyak::DType::int64) {
        some.add(info.name, static_cast<std::int64_t*>(memory), info.shape, info.role);
      } else {
        some.add(info.name, static_cast<P*>(memory), info.shape, info.role);
      }
    };
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      if (k != changing || (all && !last)) add(k);
    }
    if (all && last) add(changing);
    return some;
  }
  /// A step with a list, in which the tensor rests or not.
  void step(bool all, std::uint64_t number, bool rests) {
    const polyak::Parameters<P> params = list(all);
    model.differentiate(number);
    if (!trains) model.wander(number);
    if (rests) std::memcpy(model.params[changing].raw(), before.data(), before.size());
    polyak::Gradients<P> gradients(params);
    for (std::size_t k = 0; k < model.trained(); ++k) {
      if (k == changing && !all) continue;
      const std::string& name = model.params[k].name();
      if (k == changing && rests) {
        gradients.set(name, polyak::no_gradient);
      } else {
        gradients.set(name, model.gradient(k));
      }
    }
    if (!method->run(splitter, params, gradients)) FAIL_CHECK("a step was skipped");
    method->vary();
  }
};

/// A list that grows, against the larger one with a tensor that rested; a list that shrinks,
/// against the smaller one. State goes by names: the place of the tensor after the new one changes.
template <class P>
void check_lists(const Entry<P>& entry) {
  constexpr std::uint64_t change = 4, steps = 9;
  ListTraining<P> grows(entry, false), large(entry, true);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const bool rests = step < change;
    if (step == change) grows.method->grow(grows.list(true));
    grows.step(!rests, step, rests);
    large.step(true, step, rests);
  }
  if (grows.model.bytes() != large.model.bytes() ||
      grows.method->state() != large.method->state()) {
    FAIL_CHECK(entry.name << ": growing matters");
  }
  ListTraining<P> shrinks(entry, true), small(entry, false);
  for (std::uint64_t step = 0; step < steps; ++step) {
    if (step == change) shrinks.method->shrink(shrinks.list(false));
    shrinks.step(step < change, step, true);
    small.step(false, step, true);
  }
  if (shrinks.model.bytes() != small.model.bytes() ||
      shrinks.method->state() != small.method->state()) {
    FAIL_CHECK(entry.name << ": shrinking matters");
  }
}

/// Gradients that are scaled as they are read, by a power of two, against gradients that were
/// multiplied in memory.
template <class P>
void check_scale(const Entry<P>& entry) {
  const std::vector<std::size_t> sizes{5, 0, 203, 64};
  Training<P> scaled(entry, sizes, true, Split::pieces), multiplied(entry, sizes, true);
  Training<P> plain(entry, sizes, true);
  scaled.model.gradients.scale(0.25);
  for (std::uint64_t step = 0; step < 5; ++step) {
    scaled.step(step);
    plain.step(step);
    multiplied.prepare(step);
    for (std::size_t k = 0; k < sizes.size() + 1; ++k) {
      auto* const gradient = const_cast<P*>(multiplied.model.gradients[k]);
      for (std::size_t i = 0; i < multiplied.model.params[k].size(); ++i) {
        gradient[i] = static_cast<P>(static_cast<double>(gradient[i]) * 0.25);
      }
    }
    multiplied.run();
    multiplied.method->vary();
    if (!scaled.equals(multiplied)) FAIL_CHECK(entry.name << ": scaled gradients, step " << step);
  }
  if (scaled.equals(plain)) FAIL_CHECK(entry.name << ": the scale of gradients has no effect");
}

/// After reset_moments() an optimizer goes on as a new one does, but for its schedules.
template <class P>
void check_reset(const Entry<P>& entry) {
  constexpr std::uint64_t reset = 5, steps = 9;
  Training<P> run(entry, {64, 70}), fresh(entry, {64, 70});
  for (std::uint64_t step = 0; step < reset; ++step) {
    run.prepare(step);
    run.run();
  }
  if (!run.method->reset()) return;
  for (const Bytes& slot : run.method->slots()) {
    for (const std::byte byte : slot) {
      if (byte != std::byte{0}) FAIL(entry.name << ": reset_moments() left state behind");
    }
  }
  if (entry.method.scheduled) return;
  for (std::size_t k = 0; k < 2; ++k) {
    const auto from = run.model.params[k];
    std::copy(from.data(), from.data() + from.size(), fresh.model.params[k].data());
  }
  for (std::uint64_t step = reset; step < steps; ++step) {
    for (Training<P>* const one : {&run, &fresh}) {
      one->prepare(step);
      one->run();
    }
    if (run.model.tensor_bytes(1) != fresh.model.tensor_bytes(1) ||
        run.method->slots() != fresh.method->slots()) {
      FAIL_CHECK(entry.name << ": differs from a new one after reset_moments(), step " << step);
    }
  }
}

/// A frozen tensor among others.
template <class P>
void check_frozen(const Entry<P>& entry) {
  Training<P> run(grouped(entry), {5, 70, 33}, true);
  const Bytes frozen = run.model.tensor_bytes(2), other = run.model.tensor_bytes(1);
  for (std::uint64_t step = 0; step < 3; ++step) run.step(step);
  if (run.model.tensor_bytes(2) != frozen || !run.method->tensor(2).empty()) {
    FAIL_CHECK(entry.name << ": a frozen tensor has changed, or has state");
  }
  if (run.model.tensor_bytes(1) == other) FAIL_CHECK(entry.name << ": a group was not trained");
}

template <class P>
void check_empty(const Entry<P>& entry) {
  for (const auto& sizes : {std::vector<std::size_t>{}, std::vector<std::size_t>{0},
                            std::vector<std::size_t>{0, 0, 0}}) {
    Training<P> run(entry, sizes);
    for (std::uint64_t step = 0; step < 6; ++step) run.step(step);
    const auto copy = run.method->copied();
    if (copy->state() != run.method->state() || !run.model.margins_intact()) {
      FAIL_CHECK(entry.name << ": " << sizes.size() << " empty tensors");
    }
    if (run.method->memory().total != 0) FAIL_CHECK(entry.name << ": memory for no elements");
  }
}

template <class P>
void check_memory(const Entry<P>& entry) {
  for (const std::size_t size : {std::size_t{1000}, std::size_t{20000}}) {
    const bool extras = size == 1000;
    Model<P> model({size, 33, 0}, extras);
    const allocations::Counter counter;
    const auto method = entry.make(model.params, {});
    const allocations::Counts counts = counter.counts();
    const polyak::MemoryReport report = method->memory();
    const auto copy = method->copied();
    const std::size_t all = counter.counts().aligned_bytes;
    std::size_t slots = 0;
    for (const auto& slot : report.slots) {
      slots += slot.bytes;
      if (slot.bytes < slot.elements * polyak::detail::bytes_of(slot.dtype)) {
        FAIL_CHECK(entry.name << ": slot " << slot.name << " is too small");
      }
    }
    const std::size_t buffers = entry.trains || !extras ? 0 : 7 * sizeof(P) + 3 * 8;
    INFO(entry.name);
    CHECK(counts.aligned_bytes == report.total);
    CHECK(slots + buffers <= report.total);
    CHECK(report.total - slots - buffers <= report.slots.size());  // remainders
    CHECK(counts.bytes - counts.aligned_bytes < 4096);
    CHECK(all == 2 * report.total);
  }
}

template <class P>
void check_allocations(const Entry<P>& entry) {
  for (const Split split : {Split::whole, Split::pieces}) {
    Training<P> run(entry, {5, 70, 1000}, true, split);
    for (std::uint64_t step = 0; step < 8; ++step) {
      run.prepare(step, step == 3 ? std::set<std::size_t>{1} : std::set<std::size_t>{});
      const allocations::Counter counter;
      run.run();
      const std::size_t allocated = counter.counts().number;
      if (allocated != 0) {
        FAIL_CHECK(entry.name << ": " << allocated << " allocations in step " << step);
      }
    }
  }
}

/// The whole battery, for a list of methods: `list(use)` calls use(method, make) for each.
template <class P, class List>
void check(List list) {
  std::vector<Entry<P>> entries;
  list(collect<P, true>(entries));
  CHECK(!entries.empty());
  for (const Entry<P>& entry : entries) {
    if (!entry.method.by_tensor) check_tensors(entry);
    check_executors(entry);
    check_resume(entry);
    if (entry.method.couples.empty()) {
      check_selections(entry);
      check_lists(entry);
    }
    check_empty(entry);
    check_memory(entry);
    check_allocations(entry);
    if (!entry.trains) continue;
    check_gaps(entry);
    if (!entry.method.one_clock) check_late_start(entry);
    check_scale(entry);
    check_frozen(entry);
    check_reset(entry);
    check_executors(grouped(entry));
    check_resume(grouped(entry));
    check_lists(grouped(entry));
    check_allocations(grouped(entry));
  }
}

/// The part of it that depends on the types of parameters and state.
template <class P, class List>
void check_types(List list) {
  std::vector<Entry<P>> entries;
  list(collect<P, false>(entries));
  CHECK(!entries.empty());
  for (const Entry<P>& entry : entries) {
    if (!entry.method.by_tensor) check_tensors(entry);
    check_executors(entry);
    if (entry.method.couples.empty()) check_selections(entry);
    check_memory(entry);
    if (entry.trains) check_scale(entry);
  }
}

}  // namespace method_battery
