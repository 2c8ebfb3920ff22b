// SPDX-License-Identifier: Apache-2.0
// Methods of a user's own that override the hooks of the bases: alone and in a step they do the
// same, and one that refuses a step in prepare() leaves everything as it was.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/ring_of_blocks.hpp>
#include <polyak/core/clip.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/optim/elementwise.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/fused.hpp"
#include "../support/model.hpp"
#include "../support/splitter.hpp"

namespace hooks_test {

namespace {

using polyak::Nonfinite;
using Params = polyak::Parameters<float>;
using Gradients = polyak::Gradients<float>;
using Journal = std::vector<std::string>;

/// Controls a method's hooks from outside.
struct Script {
  Journal* journal = nullptr;  ///< the names of the hooks that ran
  std::string name;
  bool refuses = false;  ///< in prepare()
  bool reads = false;    ///< prepare() reads the weights

  void note(std::string_view hook) const {
    if (journal != nullptr) journal->push_back(name + "." + std::string(hook));
  }
};
using ScriptPointer = std::shared_ptr<Script>;

/// The largest magnitude of the weights, or of the gradients that are set, computed by the
/// executor.
double largest(const polyak::ExecutorRef& executor, const Params& params,
               const Gradients* gradients) {
  double found = 0;
  std::mutex guard;
  for (std::size_t k = 0; k < params.size(); ++k) {
    if (params[k].info().role == polyak::Role::copy) continue;
    const float* const values = gradients == nullptr ? params[k].data() : (*gradients)[k];
    if (values == nullptr) continue;
    executor(params[k].size(), [&](std::size_t begin, std::size_t end) {
      double here = 0;
      for (std::size_t i = begin; i < end; ++i) {
        here = std::fmax(here, std::fabs(static_cast<double>(values[i])));
      }
      const std::lock_guard lock(guard);
      found = std::fmax(found, here);
    });
  }
  return found;
}

/// The additions of each method below to its base, and their state.
struct Additions {
  ScriptPointer script;
  double prepared = 0;  // by prepare(), for this call
  double seen = 0;
  std::int64_t advanced = 0, finished = 0, skips = 0;

  void prepare(const polyak::ExecutorRef& executor, const Params& params,
               const Gradients* gradients) {
    script->note("prepare");
    prepared = script->reads          ? largest(executor, params, nullptr)
               : gradients != nullptr ? largest(executor, params, gradients)
                                      : 0;
    if (script->refuses) throw std::invalid_argument(script->name + " refuses");
  }
  void advance() {
    script->note("advance");
    ++advanced;
    seen = prepared;
  }
  void finish() {
    script->note("finish");
    ++finished;
  }
  void skip() {
    script->note("skip");
    ++skips;
  }
  template <class Self>
  static void list_state(Self& self, polyak::StateVisitorOf<Self>& visit) {
    visit.scalar("seen", self.seen);
    visit.scalar("advanced", self.advanced);
    visit.scalar("finished", self.finished);
    visit.scalar("skips", self.skips);
  }
};

/// An average of half the gain that rests in every fourth call.
class OwnAverage final
    : public polyak::AverageOf<OwnAverage, float, polyak::PolynomialWeighting, float> {
 public:
  static constexpr std::string_view type_name = "OwnAverage";

  OwnAverage(const Params& params, ScriptPointer script, Nonfinite nonfinite = Nonfinite::propagate)
      : AverageOf(params, {}, nonfinite), more_{std::move(script)} {}

  [[nodiscard]] const Additions& additions() const { return more_; }

  [[nodiscard]] bool reads_weights() const { return more_.script->reads; }
  void prepare(const polyak::ExecutorRef& executor, const Params& params, const Gradients*) {
    more_.prepare(executor, params, nullptr);  // an update has no gradients
  }
  void advance(const Params& params, const float* const* gradients) {
    AverageOf::advance(params, gradients);
    more_.advance();
  }
  [[nodiscard]] bool resting() const { return more_.advanced % 4 == 0; }
  [[nodiscard]] auto bind() const {
    return this->bind_plain(polyak::AverageLaw<float>{static_cast<float>(this->gain() / 2)},
                            std::size_t{0});
  }
  void finish(const polyak::ExecutorRef& executor, const Params& params) {
    if (!resting()) AverageOf::finish(executor, params);
    more_.finish();
  }
  void skip() {
    AverageOf::skip();
    more_.skip();
  }
  template <class Self>
  static void list_state(Self& self, polyak::StateVisitorOf<Self>& visit) {
    AverageOf::list_state(self, visit);
    Additions::list_state(self.more_, visit);
  }

 private:
  Additions more_;
};

/// Blocks of two calls; of every three one is left out.
struct TwoOfThree {
  [[nodiscard]] double least_gain() const { return 0.5; }
  [[nodiscard]] bool samples(std::int64_t t) const { return t % 3 != 0; }
  [[nodiscard]] bool completes(std::int64_t t) const { return t % 3 == 2; }
};

/// A ring whose blocks move by half the gain, and which rests in every fifth call.
class OwnRing final : public polyak::RingOfBlocks<OwnRing, float, TwoOfThree, float> {
 public:
  static constexpr std::string_view type_name = "OwnRing";

  OwnRing(const Params& params, ScriptPointer script, Nonfinite nonfinite = Nonfinite::propagate)
      : RingOfBlocks(params, {}, {.ring = 3, .kept = 3, .width = 2}, nonfinite, {}),
        more_{std::move(script)} {}

  [[nodiscard]] const Additions& additions() const { return more_; }

  [[nodiscard]] bool reads_weights() const { return more_.script->reads; }
  void prepare(const polyak::ExecutorRef& executor, const Params& params, const Gradients*) {
    more_.prepare(executor, params, nullptr);
  }
  void advance(const Params& params, const float* const* gradients) {
    RingOfBlocks::advance(params, gradients);
    more_.advance();
  }
  [[nodiscard]] bool resting() const { return more_.advanced % 5 == 0 || RingOfBlocks::resting(); }
  [[nodiscard]] auto bind() const {
    auto bound = RingOfBlocks::bind();
    std::visit([](auto& one) { one.law.gain /= 2; }, bound);
    return bound;
  }
  void finish(const polyak::ExecutorRef& executor, const Params& params) {
    RingOfBlocks::finish(executor, params);
    more_.finish();
  }
  void skip() {
    RingOfBlocks::skip();
    more_.skip();
  }
  template <class Self>
  static void list_state(Self& self, polyak::StateVisitorOf<Self>& visit) {
    RingOfBlocks::list_state(self, visit);
    Additions::list_state(self.more_, visit);
  }

 private:
  Additions more_;
};

struct OwnOptions {
  double learning_rate = 0.25;
  Nonfinite nonfinite = Nonfinite::propagate;
};
template <class Fields>
void fields(OwnOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, polyak::finite_and_not_negative);
  field("nonfinite", o.nonfinite);
}

template <class T>
struct OwnLaw {
  static constexpr polyak::LawSlots slots{"mean"};
  T step;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& mean) const {
    mean = fma(T(0.5), g - mean, mean);
    x = fma(-step, mean, x);
  }
};

struct OwnRule {
  using Options = OwnOptions;
  static constexpr std::string_view name = "Own";
  template <class T>
  static OwnLaw<T> law(const OwnOptions&, const polyak::StepOf<T>& s) {
    return {.step = s(s.learning_rate)};
  }
};

/// An optimizer whose steps are relative to the largest gradient (or weight), and which rests in
/// every fourth call.
class OwnOptimizer final : public polyak::Elementwise<OwnOptimizer, OwnRule, float, float> {
 public:
  OwnOptimizer(const Params& params, ScriptPointer script,
               Nonfinite nonfinite = Nonfinite::propagate, const polyak::Selection& tensors = {})
      : Elementwise(params, {.nonfinite = nonfinite}, tensors), more_{std::move(script)} {}

  [[nodiscard]] const Additions& additions() const { return more_; }

  [[nodiscard]] bool reads_weights() const { return more_.script->reads; }
  void prepare(const polyak::ExecutorRef& executor, const Params& params,
               const Gradients* gradients) {
    more_.prepare(executor, params, gradients);
  }
  void advance(const Params& params, const float* const* gradients) {
    Elementwise::advance(params, gradients);
    more_.advance();
  }
  [[nodiscard]] bool resting() const { return more_.advanced % 4 == 0; }
  [[nodiscard]] auto bind() const {
    const auto step = static_cast<float>(this->learning_rate() / (more_.seen + 1));
    return polyak::detail::bind_law(OwnLaw<float>{step}, this->slots());
  }
  void finish(const polyak::ExecutorRef& executor, const Params& params) {
    Elementwise::finish(executor, params);
    more_.finish();
  }
  void skip() {
    Elementwise::skip();
    more_.skip();
  }
  template <class Self>
  static void list_state(Self& self, polyak::StateVisitorOf<Self>& visit) {
    Elementwise::list_state(self, visit);
    Additions::list_state(self.more_, visit);
  }

 private:
  Additions more_;
};

/// An optimizer whose learning rate depends on the tensor, by the hooks that make the laws.
class PacedOptimizer final : public polyak::Elementwise<PacedOptimizer, OwnRule, float, float> {
 public:
  explicit PacedOptimizer(const Params& params, const polyak::Selection& tensors = {})
      : Elementwise(params, {}, tensors) {}
  [[nodiscard]] polyak::StepOf<float> step_of(std::size_t tensor) const {
    polyak::StepOf<float> step = Elementwise::step_of(tensor);
    if (tensor % 2 == 1) step.learning_rate /= 4;
    return step;
  }
  [[nodiscard]] bool same_step(std::size_t a, std::size_t b) const {
    return a % 2 == b % 2 && Elementwise::same_step(a, b);
  }
};

ScriptPointer reading(bool reads) {
  auto script = std::make_shared<Script>();
  script->reads = reads;
  return script;
}

/// Two numbers and their gradients.
struct Small {
  std::vector<float> x{4, -2}, gradient{1, -0.5F};
  Params params;
  polyak::Gradients<float> gradients;
  Small() : params(), gradients((params.add("x", x), params)) { gradients.set("x", gradient); }
  Small(const Small&) = delete;
  Small& operator=(const Small&) = delete;
};

}  // namespace

TEST_CASE("an average that overrides hooks of AverageOf uses them when it runs alone") {
  Small model;
  OwnAverage average(model.params, reading(true));
  float expected = model.x[0];
  for (int t = 1; t <= 9; ++t) {
    model.x[0] = static_cast<float>(t * t);
    average.update(model.params);
    const auto gain = static_cast<float>(9.0 / (t + 8) / 2);
    if (t % 4 != 0) expected = std::fma(gain, model.x[0] - expected, expected);
    CHECK(average.view()["x"](0) == expected);
    CHECK(average.additions().seen == std::max(t * t, 2));  // |x(1)| is 2
    CHECK(average.additions().finished == t);
  }
}

TEST_CASE("an optimizer that overrides hooks of Elementwise uses them when it runs alone") {
  Small model;
  OwnOptimizer optimizer(model.params, reading(false));
  CHECK(OwnOptimizer::type_name == "Own");
  float mean = 0, expected = model.x[0];
  for (int t = 1; t <= 9; ++t) {
    model.gradient = {static_cast<float>(t), -1};
    optimizer.step(model.params, model.gradients);
    if (t % 4 != 0) {
      mean = std::fma(0.5F, model.gradient[0] - mean, mean);
      expected = std::fma(-static_cast<float>(0.25 / (t + 1)), mean, expected);
    }
    CHECK(model.x[0] == expected);
    CHECK(optimizer.slot("mean")["x"](0) == mean);
    CHECK(optimizer.additions().finished == t);
  }
}

TEST_CASE("a ring that overrides hooks of RingOfBlocks uses them when it runs alone") {
  Small model;
  OwnRing ring(model.params, reading(false));
  std::vector<float> blocks;  // complete ones
  float block = 0;
  for (int t = 1; t <= 14; ++t) {
    model.x[0] = static_cast<float>(t);
    ring.update(model.params);
    // The first call of a block copies, the second moves by half of 1/2. Calls 5 and 10 are left
    // out: the block keeps its values, and the fourth block the values that the first one left in
    // its place.
    if (t % 3 == 1) block = t % 5 != 0 ? model.x[0] : blocks[blocks.size() - 3];
    if (t % 3 == 2) {
      if (t % 5 != 0) block += 0.25F * (model.x[0] - block);
      blocks.push_back(block);
    }
    CHECK(ring.additions().finished == t);
    REQUIRE(ring.ready() == (blocks.size() >= 2));
    if (ring.ready()) {
      const float last = blocks.back(), before = blocks[blocks.size() - 2];
      CHECK(ring.view()["x"](0) == Approx((last + before) / 2));
    }
  }
}

TEST_CASE("tensors with different step counts get different laws") {
  std::vector<float> first{1, 2}, second{3}, gradient{1, 1}, last{5};
  Params params;
  params.add("first", first).add("second", second).add("last", last);
  polyak::Gradients<float> gradients(params);
  gradients.set("first", gradient).set("second", gradient.data()).set("last", gradient.data());
  PacedOptimizer optimizer(params);
  optimizer.step(params, gradients);
  CHECK(first == std::vector<float>{1 - 0.125F, 2 - 0.125F});
  CHECK(second[0] == 3 - 0.125F / 4);
  CHECK(last[0] == 5 - 0.125F);
}

TEST_CASE("methods that override hooks: fused equals separate") {
  for (const bool reads : {false, true}) {
    const auto optimizer = [&](const Params& p) { return OwnOptimizer(p, reading(reads)); };
    const auto average = [&](const Params& p) { return OwnAverage(p, reading(reads)); };
    const auto ring = [&](const Params& p) { return OwnRing(p, reading(reads)); };
    const std::string name = reads ? "reading the weights" : "not reading the weights";
    fused::check<float>("all, " + name, [&](const Params& p) {
      return std::tuple(optimizer(p), average(p), ring(p));
    });
    fused::check<float>("the optimizer last, " + name, [&](const Params& p) {
      return std::tuple(ring(p), average(p), optimizer(p));
    });
    // Averages after a second optimizer read its weights, too.
    const auto first = polyak::named("tensor 0", "tensor 1"), second = polyak::named("tensor 3");
    const auto optimizer_of = [&](const Params& p, const polyak::Selection& tensors) {
      return OwnOptimizer(p, reading(reads), Nonfinite::propagate, tensors);
    };
    fused::check<float>("two optimizers, " + name, [&](const Params& p) {
      return std::tuple(PacedOptimizer(p, first), average(p), optimizer_of(p, !first),
                        polyak::Ema<float>(p));
    });
    fused::check<float>("three optimizers, " + name, [&](const Params& p) {
      return std::tuple(PacedOptimizer(p, first), average(p), optimizer_of(p, second),
                        optimizer_of(p, !first && !second), ring(p));
    });
    fused::check<float>("with averages that write the weights, " + name, [&](const Params& p) {
      return std::tuple(optimizer(p), average(p), fused::Scripted<float>(p, 1), ring(p));
    });
  }
}

TEST_CASE("hooks run in the same order alone and in a step") {
  Small model;
  Journal journal;
  const auto script = [&](const std::string& name) {
    return std::make_shared<Script>(Script{.journal = &journal, .name = name});
  };
  const auto taken = [&] { return std::exchange(journal, {}); };
  OwnOptimizer optimizer(model.params, script("optimizer"));
  OwnAverage average(model.params, script("average"));
  OwnRing ring(model.params, script("ring"));
  for (int t = 1; t <= 5; ++t) {  // each of them rests once
    polyak::step(model.params, model.gradients, optimizer, average, ring);
    CHECK(taken() == Journal{"optimizer.prepare", "average.prepare", "ring.prepare",
                             "optimizer.advance", "average.advance", "ring.advance",
                             "optimizer.finish", "average.finish", "ring.finish"});
    polyak::update(model.params, ring, average);
    CHECK(taken() == Journal{"ring.prepare", "average.prepare", "ring.advance", "average.advance",
                             "ring.finish", "average.finish"});
    optimizer.step(model.params, model.gradients);
    CHECK(taken() == Journal{"optimizer.prepare", "optimizer.advance", "optimizer.finish"});
    average.update(model.params);
    CHECK(taken() == Journal{"average.prepare", "average.advance", "average.finish"});
    ring.update(model.params);
    CHECK(taken() == Journal{"ring.prepare", "ring.advance", "ring.finish"});
  }
}

TEST_CASE("a method that reads the weights is prepared after earlier methods have written them") {
  Small model;
  Journal journal;
  OwnOptimizer optimizer(model.params, std::make_shared<Script>(Script{&journal, "optimizer"}));
  OwnAverage average(model.params,
                     std::make_shared<Script>(Script{&journal, "average", false, true}));
  polyak::step(model.params, model.gradients, optimizer, average);
  CHECK(journal == Journal{"optimizer.prepare", "optimizer.advance", "optimizer.finish",
                           "average.prepare", "average.advance", "average.finish"});
  CHECK(average.additions().seen == model.x[0]);
  journal.clear();
  polyak::step(model.params, model.gradients, average, optimizer);
  CHECK(journal.front() == "average.prepare");
  CHECK(journal[1] == "optimizer.prepare");
}

TEST_CASE("a user's own skip() runs instead of all other hooks") {
  Small model;
  Journal journal;
  const auto script = [&](const std::string& name) {
    return std::make_shared<Script>(Script{.journal = &journal, .name = name});
  };
  const auto taken = [&] { return std::exchange(journal, {}); };
  OwnOptimizer optimizer(model.params, script("optimizer"), Nonfinite::skip_step);
  OwnAverage average(model.params, script("average"), Nonfinite::skip_step);
  OwnRing ring(model.params, script("ring"), Nonfinite::skip_step);

  const auto start = model.x;
  model.gradient[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(polyak::step(model.params, model.gradients, optimizer, average, ring));
  CHECK(taken() == Journal{"optimizer.skip", "average.skip", "ring.skip"});
  CHECK_FALSE(optimizer.step(model.params, model.gradients));
  CHECK(taken() == Journal{"optimizer.skip"});
  CHECK(model.x == start);

  model.x[0] = std::numeric_limits<float>::infinity();
  CHECK_FALSE(polyak::update(model.params, average, ring));
  CHECK(taken() == Journal{"average.skip", "ring.skip"});
  CHECK_FALSE(average.update(model.params));
  CHECK_FALSE(ring.update(model.params));
  CHECK(taken() == Journal{"average.skip", "ring.skip"});

  CHECK(optimizer.additions().skips == 2);
  CHECK(optimizer.skipped() == 2);
  CHECK(average.additions().skips == 3);
  CHECK(average.skipped() == 3);
  CHECK(ring.additions().skips == 3);
  CHECK(ring.skipped() == 3);
  CHECK(optimizer.count() == 0);
  CHECK(average.calls() == 0);
  CHECK(ring.calls() == 0);
}

namespace {

/// An optimizer, two averages of a user's own and an average of the library on a model.
struct Run {
  explicit Run(Nonfinite nonfinite)
      : optimizer(model.params, scripts[0], nonfinite),
        average(model.params, scripts[1], nonfinite),
        ring(model.params, scripts[2], nonfinite),
        ema(model.params, {.decay = 0.75}) {}

  Model<float> model{{5, 70, 0, 33, 160}, true};
  std::vector<ScriptPointer> scripts{reading(false), reading(false), reading(false)};
  OwnOptimizer optimizer;
  OwnAverage average;
  OwnRing ring;
  polyak::Ema<float> ema;

  template <class Executor>
  void step(Executor&& executor, bool optimizer_last) {
    if (optimizer_last) {
      polyak::step(executor, model.params, model.gradients, ema, average, ring, optimizer);
    } else {
      polyak::step(executor, model.params, model.gradients, optimizer, average, ema, ring);
    }
  }
  /// Every bit of the weights and of all states.
  [[nodiscard]] std::vector<std::vector<std::byte>> bytes() {
    return {model.bytes(), polyak::state_bytes(optimizer), polyak::state_bytes(average),
            polyak::state_bytes(ring), polyak::state_bytes(ema)};
  }
};

template <class Executor>
void check_refusals_change_nothing(Executor&& executor) {
  for (const Nonfinite nonfinite : {Nonfinite::propagate, Nonfinite::skip_step, Nonfinite::error}) {
    for (const bool optimizer_last : {false, true}) {
      Run run(nonfinite), undisturbed(nonfinite);
      for (std::uint64_t step = 0; step < 6; ++step) {
        INFO("policy " << name_of(nonfinite) << ", step " << step);
        run.model.differentiate(step);
        undisturbed.model.differentiate(step);
        const auto before = run.bytes();
        for (const ScriptPointer& script : run.scripts) {
          script->refuses = true;
          CHECK_THROWS_AS(run.step(executor, optimizer_last), std::invalid_argument);
          CHECK(run.bytes() == before);
          script->refuses = false;
        }
        run.scripts[1]->refuses = true;
        CHECK_THROWS_AS(polyak::update(executor, run.model.params, run.ema, run.average),
                        std::invalid_argument);
        CHECK_THROWS_AS(run.average.update(run.model.params), std::invalid_argument);
        CHECK(run.bytes() == before);
        run.scripts[1]->refuses = false;

        run.step(executor, optimizer_last);
        undisturbed.step(polyak::serial, optimizer_last);
        REQUIRE(run.bytes() == undisturbed.bytes());
        CHECK(run.bytes() != before);
      }
    }
  }
}

}  // namespace

TEST_CASE("a step that prepare() refuses changes nothing") {
  SECTION("serial") { check_refusals_change_nothing(polyak::serial); }
  SECTION("in pieces") { check_refusals_change_nothing(Splitter(Split::pieces)); }
  SECTION("on threads") { check_refusals_change_nothing(Splitter(Split::threads)); }
}

TEST_CASE("a refusal after a skipped average does not count the skip") {
  Small model;
  OwnAverage checks(model.params, reading(false), Nonfinite::skip_step);
  const auto script = reading(false);
  OwnAverage refuses(model.params, script);
  model.x[0] = std::numeric_limits<float>::infinity();
  script->refuses = true;
  CHECK_THROWS_AS(polyak::update(model.params, checks, refuses), std::invalid_argument);
  CHECK(checks.skipped() == 0);
  script->refuses = false;
  CHECK_FALSE(polyak::update(model.params, checks, refuses));
  CHECK(checks.skipped() == 1);
  CHECK(refuses.calls() == 1);
}

TEST_CASE("a method that reads the weights after an optimizer can refuse only its own update") {
  Small model, alone;
  const auto script = reading(true);
  script->refuses = true;
  OwnOptimizer optimizer(model.params, reading(false)), same(alone.params, reading(false));
  OwnAverage average(model.params, script);
  const auto before = polyak::state_bytes(average);
  CHECK_THROWS_AS(polyak::step(model.params, model.gradients, optimizer, average),
                  std::invalid_argument);
  same.step(alone.params, alone.gradients);
  CHECK(model.x == alone.x);
  CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(same));
  CHECK(polyak::state_bytes(average) == before);
  const auto trained = model.x;
  CHECK_THROWS_AS(polyak::step(model.params, model.gradients, average, optimizer),
                  std::invalid_argument);
  CHECK(model.x == trained);
  CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(same));
}

namespace {

/// An optimizer whose steps are relative to the norm of the gradients, found by prepare().
class NormedOptimizer final : public polyak::Elementwise<NormedOptimizer, OwnRule, float, float> {
 public:
  explicit NormedOptimizer(const Params& params, const polyak::Selection& tensors = {})
      : Elementwise(params, {}, tensors) {}

  void prepare(const polyak::ExecutorRef& executor, const Params&, const Gradients* gradients) {
    norm_ = polyak::norm(executor, *gradients);
  }
  [[nodiscard]] polyak::StepOf<float> step_of(std::size_t tensor) const {
    polyak::StepOf<float> step = Elementwise::step_of(tensor);
    step.learning_rate /= norm_;
    return step;
  }
  [[nodiscard]] double norm() const { return norm_; }

 private:
  double norm_ = 1;
};

/// How gradients are read in this step.
void set_reading(Model<float>& model, std::uint64_t step) {
  model.differentiate(step);
  model.gradients.scale(0.5).clip_value(step % 2 == 0 ? 1e300 : 0.01);
  polyak::clip_norm(model.gradients, 0.75);
  REQUIRE(model.gradients.clip_coefficient() < 1);
}

/// Gradients that are in memory what those of `read` are read as.
void multiply_by_hand(Model<float>& model, std::uint64_t step, const Gradients& read) {
  model.differentiate(step);
  const auto factor = static_cast<float>(read.scale() * read.clip_coefficient());
  const auto limit = static_cast<float>(read.value_limit());
  for (std::size_t k = 0; k < model.params.size(); ++k) {
    if (model.gradients[k] == nullptr) continue;
    for (std::size_t i = 0; i < model.params[k].size(); ++i) {
      float& one = const_cast<float*>(model.gradients[k])[i];
      one = std::clamp(one * factor, -limit, limit);
    }
  }
}

}  // namespace

TEST_CASE(
    "prepare() computes the norm of the gradients as the step reads them, scaled and clipped") {
  Model<float> alone({5, 70, 0, 33, 160}, true), fused({5, 70, 0, 33, 160}, true),
      by_hand({5, 70, 0, 33, 160}, true);
  const auto some = polyak::named("tensor 1");
  NormedOptimizer a(alone.params), b(fused.params), c(by_hand.params);
  for (NormedOptimizer* const one : {&a, &b, &c}) one->group(some, {.learning_rate_factor = 0.5});
  polyak::Ema<float> ema(fused.params, {.decay = 0.75});
  Splitter pieces(Split::pieces);
  for (std::uint64_t step = 0; step < 6; ++step) {
    set_reading(alone, step);
    set_reading(fused, step);
    multiply_by_hand(by_hand, step, alone.gradients);
    CHECK(a.step(alone.params, alone.gradients));
    CHECK(polyak::step(pieces, fused.params, fused.gradients, b, ema));
    CHECK(c.step(by_hand.params, by_hand.gradients));
    CHECK(a.norm() == polyak::norm(by_hand.gradients));
    CHECK(a.norm() == b.norm());
    CHECK(a.norm() == c.norm());
    if (step % 2 == 0) CHECK(a.norm() == Approx(0.75).epsilon(1e-6));
    CHECK(alone.bytes() == by_hand.bytes());
    CHECK(fused.bytes() == by_hand.bytes());
    CHECK(polyak::state_bytes(a) == polyak::state_bytes(c));
    CHECK(polyak::state_bytes(b) == polyak::state_bytes(c));
  }
}

TEST_CASE("prepare() of two optimizers in one step sees the gradients of both") {
  Model<float> model({5, 70, 0, 33, 160}, true);
  const auto first = polyak::named("tensor 0", "tensor 1");
  NormedOptimizer a(model.params, first), b(model.params, !first);
  model.differentiate(1);
  model.gradients.scale(0.25);
  const double norm = polyak::norm(model.gradients);
  polyak::step(model.params, model.gradients, a, b);
  CHECK(a.norm() == norm);
  CHECK(b.norm() == norm);
}

}  // namespace hooks_test
