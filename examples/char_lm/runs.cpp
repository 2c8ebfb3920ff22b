// SPDX-License-Identifier: Apache-2.0
#include "runs.hpp"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <optional>
#include <ostream>
#include <polyak/polyak.hpp>
#include <string>
#include <vector>

#include "trainer.hpp"

namespace char_lm {
namespace {

// The settings of the methods, next to the learning rates in settings.hpp. Times are fractions of
// the run, so that --steps changes the length and not the character of a run.
constexpr double warmup = 0.05;
constexpr double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.05;
constexpr double swa_start = 0.75;
constexpr double ema_half_life = 0.05;
constexpr double switch_ema_half_life = 0.01;
constexpr int switch_epochs = 10;  // a switch before each but the first
constexpr double sigma_sharp = 0.05, sigma_smooth = 0.10;
constexpr double ademamix_alpha = 2, ademamix_beta3 = 0.995, ademamix_weight_decay = 0.1;
constexpr double schedule_free_beta = 0.7;

const polyak::AdamWOptions adamw_options{
    .beta1 = beta1, .beta2 = beta2, .weight_decay = weight_decay};

std::int64_t fraction_of(const Settings& settings, double fraction) {
  return static_cast<std::int64_t>(fraction * static_cast<double>(settings.steps));
}

std::int64_t warmup_steps(const Settings& settings) { return fraction_of(settings, warmup); }

polyak::CosineOptions cosine_schedule(const Settings& settings) {
  return {.total_steps = settings.steps, .warmup_steps = warmup_steps(settings)};
}

double decay_of_half_life(const Settings& settings, double fraction) {
  return polyak::decay_from_half_life(
      std::max(1.0, fraction * static_cast<double>(settings.steps)));
}

std::string percent(double fraction) {
  return std::to_string(static_cast<int>(100 * fraction + 0.5)) + " %";
}

// Whether step n is the first of one of `parts` equal parts of the run (or of what follows it).
bool begins_part(std::int64_t n, int parts, const Settings& settings) {
  return n == 0 || n * parts / settings.steps != (n - 1) * parts / settings.steps;
}

// One run: the model in training, and where its figures go.
class Run {
 public:
  Run(const std::string& name, const Corpus& corpus, const Settings& settings, Progress& progress,
      Report& report)
      : trainer(corpus, settings),
        settings_(settings),
        progress_(progress),
        report_(report),
        curve_windows_(settings.validation_windows == 0
                           ? curve_windows
                           : std::min(curve_windows, settings.validation_windows)) {
    progress.begin_run(name);
  }

  Trainer trainer;

  // Calls `step(n)` for each n from 0 with the gradient of a fresh batch, and `record()` whenever
  // the curves want a point.
  template <typename Step, typename Record>
  void train(Step&& step, Record&& record) {
    auto next_point = report_.steps.begin();
    for (std::int64_t n = 0; n < settings_.steps; ++n) {
      const auto start = Clock::now();
      const double loss = trainer.next_batch();
      step(n);
      training_seconds_ += seconds_since(start);
      progress_.advance(loss, training_seconds_);
      if (n + 1 == *next_point) {
        record();
        ++next_point;
      }
    }
    progress_.begin_evaluation();
  }

  // Adds a point to the curve of the present weights.
  void record_raw(const std::string& name) {
    add_to_curve(name, false, trainer.validation_loss(curve_windows_));
  }

  // Adds a point to the curve of an average; none before its first update.
  template <typename Average>
  void record_averaged(const std::string& name, Average& average) {
    std::optional<double> loss;
    if (average.ready()) loss = averaged_loss(average, curve_windows_);
    add_to_curve(name, true, loss);
  }

  // The final loss of the present weights.
  double raw_loss() { return trainer.validation_loss(settings_.validation_windows); }

  // The final loss with an average in the place of the weights.
  template <typename Average>
  double averaged_loss(Average& average) {
    return averaged_loss(average, settings_.validation_windows);
  }

  // Adds a row to the table.
  void add_method(const std::string& name, double raw, std::optional<double> averaged,
                  std::size_t state_bytes) {
    const double speed = static_cast<double>(settings_.steps) / training_seconds_;
    report_.methods.push_back({name, raw, averaged, speed, state_bytes});
    best_loss_ = std::min({best_loss_, raw, averaged.value_or(raw)});
  }

  // All rows are there.
  void end() { progress_.end_run(best_loss_); }

 private:
  template <typename Average>
  double averaged_loss(Average& average, std::int64_t windows) {
    const auto guard = average.swap_into(trainer.parameters());
    return trainer.validation_loss(windows);
  }

  void add_to_curve(const std::string& name, bool averaged, std::optional<double> loss) {
    auto curve = std::find_if(report_.curves.begin(), report_.curves.end(),
                              [&](const Curve& candidate) { return candidate.name == name; });
    if (curve == report_.curves.end()) {
      curve = report_.curves.insert(curve, Curve{name, averaged, {}});
    }
    curve->losses.push_back(loss);
  }

  const Settings& settings_;
  Progress& progress_;
  Report& report_;
  const std::int64_t curve_windows_;
  double training_seconds_ = 0;
  double best_loss_ = std::numeric_limits<double>::infinity();
};

// Power EMAs of many widths, reconstructed from the snapshots of two.
std::vector<SweepPoint> sweep_widths(const polyak::PosthocEma<float>& posthoc, Run& run) {
  std::vector<SweepPoint> sweep;
  for (int percent = 2; percent <= 28; percent += 2) {
    const double sigma_rel = percent / 100.0;
    const auto solution = posthoc.solve({.sigma_rel = sigma_rel});
    posthoc.reconstruct(solution, run.trainer.parameters());
    sweep.push_back({sigma_rel, solution.residual, run.raw_loss()});
  }
  return sweep;
}

}  // namespace

void print_method_settings(std::ostream& out, const Settings& settings) {
  out << "All: warmup over " << percent(warmup) << " of the run, beta1 " << beta1 << ", beta2 "
      << beta2 << ", weight decay " << weight_decay << " (AdEMAMix " << ademamix_weight_decay
      << ")\n"
      << "AdamW: rate " << settings.cosine_rate << " with cosine, " << settings.constant_rate
      << " constant\n"
      << "  SWA from " << percent(swa_start) << " on; EMA: half-life " << percent(ema_half_life)
      << " of the run; Switch-EMA: half-life " << percent(switch_ema_half_life)
      << ", copied into the model every " << percent(1.0 / switch_epochs) << "\n"
      << "AdEMAMix: rate " << settings.ademamix_rate << " with cosine, alpha " << ademamix_alpha
      << " and beta3 " << ademamix_beta3 << " reached at the end\n"
      << "Schedule-Free AdamW: rate " << settings.schedule_free_rate << ", beta "
      << schedule_free_beta << '\n';
}

void run_adamw_cosine(const Corpus& corpus, const Settings& settings, Progress& progress,
                      Report& report) {
  const std::string name = "AdamW cosine";
  Run run(name, corpus, settings, progress, report);
  auto& parameters = run.trainer.parameters();
  polyak::AdamW optimizer(parameters, adamw_options);

  run.train(
      [&](std::int64_t n) {
        const double rate = settings.cosine_rate * polyak::cosine(n, cosine_schedule(settings));
        optimizer.at(rate).step(parameters, run.trainer.gradients());
      },
      [&] { run.record_raw(name); });

  run.add_method(name, run.raw_loss(), std::nullopt, optimizer.memory_report().total);
  run.end();
}

void run_adamw_constant(const Corpus& corpus, const Settings& settings, Progress& progress,
                        Report& report) {
  const std::string name = "AdamW constant";
  Run run("AdamW + averages", corpus, settings, progress, report);
  auto& parameters = run.trainer.parameters();
  polyak::AdamW optimizer(parameters, adamw_options);
  polyak::Ema ema(parameters, {.decay = decay_of_half_life(settings, ema_half_life)});
  polyak::PowerEma sharp(parameters, {.sigma_rel = sigma_sharp});
  polyak::PowerEma smooth(parameters, {.sigma_rel = sigma_smooth});
  polyak::SwitchEma switch_ema(parameters,
                               {.decay = decay_of_half_life(settings, switch_ema_half_life)});
  polyak::Swa swa(parameters, {.start = fraction_of(settings, swa_start) + 1});
  polyak::PosthocEma<float> posthoc;

  run.train(
      [&](std::int64_t n) {
        if (begins_part(n, switch_epochs, settings)) switch_ema.begin_epoch(parameters);
        const double rate =
            settings.constant_rate * polyak::linear_warmup(n, warmup_steps(settings));
        polyak::step(parameters, run.trainer.gradients(), optimizer.at(rate), ema, sharp, smooth,
                     switch_ema, swa);
        if (begins_part(n + 1, posthoc_snapshots, settings)) posthoc.snapshot(sharp, smooth);
      },
      [&] {
        run.record_raw(name);
        run.record_averaged("+ SWA", swa);
        run.record_averaged("+ EMA", ema);
        run.record_averaged("+ Switch-EMA", switch_ema);
        run.record_averaged("+ power EMA 0.05", sharp);
        run.record_averaged("+ power EMA 0.10", smooth);
      });

  const double raw = run.raw_loss();
  const auto add = [&](const std::string& method, std::optional<double> averaged,
                       std::size_t bytes) { run.add_method(method, raw, averaged, bytes); };
  add(name, std::nullopt, optimizer.memory_report().total);
  add("+ SWA", run.averaged_loss(swa), swa.memory_report().total);
  add("+ EMA", run.averaged_loss(ema), ema.memory_report().total);
  add("+ Switch-EMA", run.averaged_loss(switch_ema), switch_ema.memory_report().total);
  report.tracked = {{sigma_sharp, 0, run.averaged_loss(sharp)},
                    {sigma_smooth, 0, run.averaged_loss(smooth)}};
  add("+ power EMA 0.05", report.tracked[0].loss, sharp.memory_report().total);
  add("+ power EMA 0.10", report.tracked[1].loss, smooth.memory_report().total);

  report.sweep = sweep_widths(posthoc, run);
  const auto best =
      std::min_element(report.sweep.begin(), report.sweep.end(),
                       [](const SweepPoint& a, const SweepPoint& b) { return a.loss < b.loss; });
  char best_name[40];
  std::snprintf(best_name, sizeof best_name, "+ best post-hoc %.2f", best->sigma_rel);
  add(best_name, best->loss, posthoc.memory_report().total);
  run.end();
}

void run_ademamix(const Corpus& corpus, const Settings& settings, Progress& progress,
                  Report& report) {
  const std::string name = "AdEMAMix cosine";
  Run run(name, corpus, settings, progress, report);
  auto& parameters = run.trainer.parameters();
  polyak::AdEMAMix optimizer(parameters, {.beta1 = beta1,
                                          .beta2 = beta2,
                                          .beta3 = ademamix_beta3,
                                          .alpha = ademamix_alpha,
                                          .weight_decay = ademamix_weight_decay,
                                          .alpha_warmup = settings.steps,
                                          .beta3_warmup = settings.steps});

  run.train(
      [&](std::int64_t n) {
        const double rate = settings.ademamix_rate * polyak::cosine(n, cosine_schedule(settings));
        optimizer.at(rate).step(parameters, run.trainer.gradients());
      },
      [&] { run.record_raw(name); });

  run.add_method(name, run.raw_loss(), std::nullopt, optimizer.memory_report().total);
  run.end();
}

void run_schedule_free(const Corpus& corpus, const Settings& settings, Progress& progress,
                       Report& report) {
  const std::string name = "Schedule-Free AdamW";
  Run run(name, corpus, settings, progress, report);
  auto& parameters = run.trainer.parameters();  // they hold y, the average is x
  polyak::ScheduleFreeAdamW optimizer(parameters, {.learning_rate = settings.schedule_free_rate,
                                                   .beta = schedule_free_beta,
                                                   .beta2 = beta2,
                                                   .warmup_steps = warmup_steps(settings),
                                                   .weight_decay = weight_decay});

  run.train([&](std::int64_t) { optimizer.step(parameters, run.trainer.gradients()); },
            [&] {
              run.record_raw(name + " y");
              run.record_averaged(name + " x", optimizer);
            });

  run.add_method(name, run.raw_loss(), run.averaged_loss(optimizer),
                 optimizer.memory_report().total);
  run.end();
}

}  // namespace char_lm
