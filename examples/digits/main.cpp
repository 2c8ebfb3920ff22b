// SPDX-License-Identifier: Apache-2.0
/// @file
/// Trains a small network to read handwritten digits and compares its last weights with averages
/// of them, at a constant and at a cyclic learning rate.
///
///   digits                                                  drawn digits, made by the program
///   digits --train optdigits.tra --test optdigits.tes       those of the UCI repository
#include <CLI/CLI.hpp>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "comparison.hpp"
#include "data.hpp"
#include "training.hpp"

namespace {

using namespace digits;

/// "mean +- deviation" of one figure over the seeds, or "mean +- standard error".
template <class Figure>
std::string mean_and_spread(const std::vector<Scores>& seeds, const char* format, bool of_mean,
                            Figure figure) {
  const auto count = static_cast<double>(seeds.size());
  double mean = 0, squares = 0;
  for (const Scores& scores : seeds) mean += figure(scores) / count;
  for (const Scores& scores : seeds) squares += (figure(scores) - mean) * (figure(scores) - mean);
  const double deviation = std::sqrt(squares / (count - 1));
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, mean,
                of_mean ? deviation / std::sqrt(count) : deviation);
  return text.data();
}

using Results = std::array<std::vector<Scores>, 2>;  ///< of the constant and the cyclic rate

void print(const Results& results) {
  std::printf("%-24s | %-47s | cyclic rate\n%-24s", "", "constant rate", "weights");
  for (int k = 0; k < 2; ++k) std::printf(" | %13s  %14s  %14s", "error %", "loss", "difference");
  std::printf("\n%s\n", std::string(124, '-').c_str());
  for (std::size_t row = 0; row < row_count; ++row) {
    std::printf("%-24s", names[row]);
    for (const std::vector<Scores>& seeds : results) {
      const auto error = [row](const Scores& s) { return s[row].error; };
      const auto loss = [row](const Scores& s) { return s[row].loss; };
      const auto gain = [row](const Scores& s) { return s[row].error - s[last].error; };
      std::printf(" | %13s  %14s  %14s",
                  mean_and_spread(seeds, "%.2f +- %.2f", false, error).c_str(),
                  mean_and_spread(seeds, "%.3f +- %.3f", false, loss).c_str(),
                  row == last ? "-" : mean_and_spread(seeds, "%+.2f +- %.2f", true, gain).c_str());
    }
    std::printf("\n");
  }
}

void add_options(CLI::App& app, Settings& settings) {
  auto* const train = app.add_option("--train", settings.train, "Digits to learn [drawn ones]");
  auto* const test = app.add_option("--test", settings.test, "Digits to be tested by");
  train->needs(test);
  test->needs(train);
  const auto number = [&](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->capture_default_str();
  };
  // The two ends of a range are no protection from NaN, whose comparisons are all false.
  const auto real = [&](const char* name, double& value, const char* what, double low,
                        double high) {
    number(name, value, what)->check([low, high](const std::string& text) -> std::string {
      double given = NAN;
      if (CLI::detail::lexical_cast(text, given) && given >= low && given <= high) return {};
      std::array<char, 64> rule{};
      std::snprintf(rule.data(), rule.size(), "must lie in [%g, %g]; it is ", low, high);
      return rule.data() + text;
    });
  };
  number("--seeds", settings.seeds, "Seeds, each with four runs")->check(CLI::Range(2, 1000));
  number("--epochs", settings.epochs, "Times that a run sees each digit")
      ->check(CLI::Range(1, 100'000));
  number("--batch", settings.batch, "Digits per batch")->check(CLI::Range(1, 65536));
  number("--hidden", settings.hidden, "Hidden units")->check(CLI::Range(1, 8192));
  number("--cycle", settings.cycle,
         "Iterations of a cycle, and from one weight that SWA collects to the next; 0: an epoch")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1'000'000'000}));
  real("--learning-rate", settings.learning_rate, "Constant rate, and a cycle's first", 1e-6, 10);
  real("--final-rate", settings.final_rate, "A cycle's last rate", 0, 10);
  real("--momentum", settings.momentum, "Of SGD", 0, 0.999);
  real("--swa-start", settings.swa_start, "Part of a run before SWA collects", 0, 0.999);
  real("--tail", settings.tail, "Part of a run that the tail average takes", 0.001, 1);
  real("--decay", settings.decay, "Of the EMA", 0, 1);
  real("--switch-decay", settings.switch_decay, "Of Switch EMA", 0.001, 0.999999);
}

void run(const Settings& settings) {
  const bool drawn = settings.train.empty();
  const Digits data = drawn ? synthetic_digits(4000, 1) : read_digits(settings.train);
  const Digits test = drawn ? synthetic_digits(2000, 2) : read_digits(settings.test);
  const Plan plan(settings, data);

  std::printf("Digits:  %s, %d to learn from; %s, %d to test by\n",
              drawn ? "drawn" : settings.train.c_str(), static_cast<int>(data.size()),
              drawn ? "drawn" : settings.test.c_str(), static_cast<int>(test.size()));
  std::printf("Network: 64-%d-10, %d weights, trained by SGD with momentum %g\n", settings.hidden,
              static_cast<int>(Tensors(settings.hidden).size()), settings.momentum);
  std::printf(
      "Runs:    %d, each of %lld batches of %d digits; the rate is %g, or falls from there "
      "to %g every %lld batches\n",
      4 * settings.seeds, static_cast<long long>(plan.iterations), settings.batch,
      settings.learning_rate, settings.final_rate, static_cast<long long>(plan.cycle));
  std::fflush(stdout);

  Results results;
  for (int seed = 1; seed <= settings.seeds; ++seed) {
    for (const bool cyclic : {false, true}) {
      results[cyclic].push_back(
          train(data, test, settings, plan, cyclic, static_cast<std::uint64_t>(seed)));
    }
  }
  std::printf("\n");
  print(results);
  std::printf(
      "\nOn the test digits, mean +- standard deviation of %d seeds; difference: of the error, "
      "to the last iterate of\nthe same seed and rate, mean +- standard error. Below 0, the "
      "average is better.\n",
      settings.seeds);
}

}  // namespace

int main(int count, char** arguments) {
  Settings settings;
  CLI::App app(
      "Trains a small network to read handwritten digits and compares its last weights with "
      "averages of them, at a constant and at a cyclic learning rate.",
      "digits");
  add_options(app, settings);
  try {
    app.parse(count, arguments);
    run(settings);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::cerr << "digits: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "digits: " << error.what() << '\n';
    return 1;
  }
}
