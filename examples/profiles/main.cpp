// SPDX-License-Identifier: Apache-2.0
/// @file
/// The weight of each iterate in each average of a run, and a decay in steps.
///
///   profiles --calls 10000 --decay 0.9997
///   profiles --calls 200000 --half-life 5000 --sigma-rel 0.05 0.15 --svg profiles.svg
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <polyak/average/analysis/weight_statistics.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/schedules/weighting.hpp>

namespace {

struct Settings {
  std::int64_t calls = 10'000;
  double decay = 0.9997, half_life = 0, eta = 8, tail = 25, window = 10, base_decay = 0.996;
  std::vector<double> sigma_rel{0.05, 0.10};
  std::string svg;
};

struct Row {
  std::string name;
  bool drawn;  // the plot leaves out those that would lie on each other
  double samples, mean_age, age_std, initial;
  std::array<double, 3> shares;                    // of the last 1, 10 and 50 %
  std::vector<std::pair<double, double>> profile;  // t/N and N times the weight
};

constexpr std::array<int, 3> percents{1, 10, 50};
constexpr std::int64_t curve_points = 250;

/// The first call of the last `percent` of the run.
std::int64_t tail_start(double percent, std::int64_t calls) {
  return calls - std::llround(percent / 100 * static_cast<double>(calls)) + 1;
}

template <class W>
Row row(std::string name, bool drawn, const W& weighting, std::int64_t calls) {
  Row one{std::move(name),
          drawn,
          polyak::effective_samples(weighting, calls),
          polyak::mean_age(weighting, calls),
          polyak::age_std(weighting, calls),
          polyak::weight(weighting, 0, calls),
          {},
          {}};
  for (std::size_t k = 0; k < percents.size(); ++k) {
    const std::int64_t before = tail_start(percents[k], calls) - 1;
    one.shares[k] = 1 - polyak::cumulative_weight(weighting, before, calls);
  }
  // One pass from the newest to the oldest, where weight() would need one for each point.
  const auto n = static_cast<double>(calls);
  const std::int64_t every = std::max<std::int64_t>(1, calls / curve_points);
  double rest = 1;
  for (std::int64_t t = calls; t >= 1; --t) {
    if ((calls - t) % every == 0) {
      one.profile.emplace_back(static_cast<double>(t) / n, n * weighting.gain(t) * rest);
    }
    rest *= weighting.complement(t);
  }
  return one;
}

std::string number(double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.5g", value);
  return digits;
}

std::vector<Row> rows(const Settings& s) {
  using namespace polyak;
  const double b = s.decay;
  std::vector<Row> all;
  const auto add = [&](std::string name, bool drawn, const auto& weighting) {
    all.push_back(row(std::move(name), drawn, weighting, s.calls));
  };
  add("uniform", true, UniformWeighting{});
  add("tail, last " + number(s.tail) + " %", true, TailWeighting{tail_start(s.tail, s.calls)});
  add("window, last " + number(s.window) + " %", true,
      TailWeighting{tail_start(s.window, s.calls)});
  add("EMA from the parameters", true, ExponentialWeighting{b, Start::params});
  add("EMA, first copied", false, ExponentialWeighting{b, Start::first_update});
  add("EMA, debiased", true, ExponentialWeighting{b, Start::zero_debiased});
  add("EMA, (1+k)/(10+k) warmup", false, TfWarmupWeighting{b});
  add("EMA, inverse-gamma warmup", false, InverseGammaWeighting{1, 2.0 / 3.0, b});
  add("uniform, then EMA", false, AnnealedWeighting{1 - b, 1});
  add("polynomial, eta " + number(s.eta), true, PolynomialWeighting{s.eta});
  for (const double width : s.sigma_rel) {
    add("power EMA, sigma_rel " + number(width), true, PowerWeighting{gamma_from_sigma_rel(width)});
  }
  add("gain t^-0.67", false, PowerGainWeighting{});
  const CosineDecayWeighting cosine{s.base_decay, s.calls};
  validate(cosine);
  add("cosine decay from " + number(s.base_decay), true, cosine);
  return all;
}

// In single quotes gnuplot interprets nothing but the quote itself.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("''") : std::string(1, c);
  return result + "'";
}

/// Throws where there is no gnuplot, or the file cannot be written.
void draw(const std::vector<Row>& all, const Settings& settings) {
  if (std::system("gnuplot --version > /dev/null 2>&1") != 0) {
    throw std::runtime_error("--svg needs gnuplot, which is not installed");
  }
  if (!std::ofstream(settings.svg, std::ios::app)) {
    throw std::runtime_error("cannot write " + settings.svg);
  }
  // The colours of Okabe and Ito, apart for colour-blind eyes too.
  constexpr std::array colours{"gray50",  "#e69f00", "#56b4e9", "black",  "#d55e00",
                               "#009e73", "#0072b2", "#cc79a7", "#7f3c8d"};
  std::string script =
      "set terminal svg size 960,560 noenhanced font 'sans-serif,14' background 'white'\n"
      "set output " +
      quoted(settings.svg) + "\nset title 'Weights of iterates after " +
      std::to_string(settings.calls) + " calls; EMA of decay " + number(settings.decay) +
      "'\n"
      "set xlabel 'iterate, t/N'\n"
      "set ylabel 'weight times N'\n"
      "set grid linecolor 'gray85'\n"
      "set key top left Left reverse\n"
      "set xrange [0:1]\n";
  std::string plots;
  std::size_t count = 0;
  for (const Row& one : all) {
    if (!one.drawn) continue;
    const std::string name = "$curve" + std::to_string(count);
    script += name + " << end\n";
    for (const auto& [time, weight] : one.profile) {
      script += number(time) + " " + number(weight) + "\n";
    }
    script += "end\n";
    plots += (count == 0 ? "plot " : ", \\\n  ") + name + " using 1:2 with lines linewidth 2" +
             " dashtype " + (count < colours.size() ? "1" : "2") + " linecolor '" +
             colours[count % colours.size()] + "' title " + quoted(one.name);
    ++count;
  }
  std::signal(SIGPIPE, SIG_IGN);  // a gnuplot that gives up shows in its exit status
  std::FILE* gnuplot = ::popen("gnuplot 2> /dev/null", "w");
  if (gnuplot == nullptr) throw std::runtime_error("cannot start gnuplot");
  script += plots + "\n";
  std::fwrite(script.data(), 1, script.size(), gnuplot);
  if (::pclose(gnuplot) != 0) throw std::runtime_error("gnuplot could not draw " + settings.svg);
}

void print_rows(const std::vector<Row>& all, const Settings& settings) {
  std::printf("After %lld calls, decay %.10g\n\n%-28s %10s %10s %10s %10s %8s %8s %8s\n",
              static_cast<long long>(settings.calls), settings.decay, "average", "effective",
              "mean age", "age std", "weight of", "last 1%", "last 10%", "last 50%");
  std::printf("%-28s %10s %10s %10s %10s\n", "", "samples", "in calls", "in calls", "initial");
  for (const Row& one : all) {
    std::printf("%-28s %10.1f %10.1f %10.1f %10.2g %8.4f %8.4f %8.4f\n", one.name.c_str(),
                one.samples, one.mean_age, one.age_std, one.initial, one.shares[0], one.shares[1],
                one.shares[2]);
  }
}

void print_decay(const Settings& settings) {
  using namespace polyak;
  const double b = settings.decay;
  const auto n = static_cast<double>(settings.calls);
  const auto steps = [n](const char* name, double value) {
    std::printf("  %-30s %12.6g steps  %8.4f %% of the run\n", name, value, 100 * value / n);
  };
  std::printf("\nA decay of %.10g, 1 - decay = %.6g, means\n", b, 1 - b);
  steps("half-life", half_life(b));
  steps("time constant", time_constant(b));
  steps("window of equal mean age", span(b));
  steps("mean age", mean_age(b));
  steps("standard deviation of the age", age_std(b));
  std::printf("  %-30s %12.6g\n", "effective samples", effective_samples(b));
  const double width = sigma_rel_from_half_life(half_life(b), n);
  std::printf("  %-30s %12.6g%s\n", "sigma_rel of equal width", width,
              width > 1 / std::sqrt(12.0) ? "  (wider than the whole run: no power EMA)" : "");
  for (const int factor : {2, 8}) {
    const std::string name = "decay for " + std::to_string(factor) + " times the batch";
    const double scaled = scale_decay(b, factor);
    std::printf("  %-30s %12.10g  (1 - decay = %.6g)\n", name.c_str(), scaled, 1 - scaled);
  }
  std::printf("  %-30s %12.3g  of a constant weight, in plain float; %.3g with kahan\n",
              "rests within", dead_zone<float>(1 - b), dead_zone<float>(1 - b, Accumulate::kahan));
}

void require_share(const char* option, double percent, std::int64_t calls) {
  if (!(percent > 0 && percent <= 100)) {
    throw std::invalid_argument(std::string(option) + " must lie in (0, 100], got " +
                                number(percent));
  }
  if (tail_start(percent, calls) > calls) {
    throw std::invalid_argument(std::string(option) + " must hold a call, of " +
                                std::to_string(calls));
  }
}

void run(Settings settings, bool by_half_life) {
  if (by_half_life) settings.decay = polyak::decay_from_half_life(settings.half_life);
  if (!(settings.decay > 0 && settings.decay < 1)) {
    throw std::invalid_argument(
        (by_half_life ? "--half-life " + number(settings.half_life) + ": its decay" : "--decay") +
        " must lie in (0, 1), got " + number(settings.decay));
  }
  if (!(settings.eta >= 0 && std::isfinite(settings.eta))) {
    throw std::invalid_argument("--eta must be finite and >= 0, got " + number(settings.eta));
  }
  require_share("--tail", settings.tail, settings.calls);
  require_share("--window", settings.window, settings.calls);
  const auto all = rows(settings);
  if (!settings.svg.empty()) draw(all, settings);
  print_rows(all, settings);
  print_decay(settings);
}

}  // namespace

int main(int count, char** arguments) {
  Settings settings;
  CLI::App app("Shows what averages of a run weigh, and what a decay means in steps.", "profiles");
  app.add_option("--calls", settings.calls, "Calls of the run")
      ->check(CLI::Range(100, 100'000'000))
      ->capture_default_str();
  auto* decay = app.add_option("--decay", settings.decay, "Decay of the EMAs, in (0, 1)")
                    ->capture_default_str();
  auto* half_life =
      app.add_option("--half-life", settings.half_life, "Their half-life in calls instead")
          ->excludes(decay);
  app.add_option("--sigma-rel", settings.sigma_rel, "Widths of the power EMAs, in (0, 0.288]")
      ->capture_default_str();
  app.add_option("--eta", settings.eta, "Exponent of the polynomial average, >= 0")
      ->capture_default_str();
  app.add_option("--tail", settings.tail, "Percent of the run in the tail average")
      ->capture_default_str();
  app.add_option("--window", settings.window, "Percent of the run in the window")
      ->capture_default_str();
  app.add_option("--base-decay", settings.base_decay, "Decay that the cosine begins with")
      ->capture_default_str();
  app.add_option("--svg", settings.svg, "Plot the profiles into this file, by gnuplot");
  try {
    app.parse(count, arguments);
    run(settings, half_life->count() > 0);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::cerr << "profiles: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "profiles: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
