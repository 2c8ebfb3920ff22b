// SPDX-License-Identifier: Apache-2.0
/// @file
/// Trains a character-level language model with averaging optimizers and compares them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>

#include "corpus.hpp"
#include "plots.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "runs.hpp"
#include "settings.hpp"

namespace {

using namespace char_lm;

void add_options(CLI::App& app, Settings& settings) {
  const auto rate = CLI::PositiveNumber;
  app.add_option("--corpus", settings.corpus, "Text file to learn [polyak's own sources]");
  app.add_option("--out", settings.out, "Folder for tables and plots")->capture_default_str();
  app.add_option("--steps", settings.steps, "Training steps of each run")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{100'000'000}))
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "Seed of initial weights and batches")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--batch", settings.batch, "Windows per batch")
      ->check(CLI::Range(2, 65536))
      ->capture_default_str();
  app.add_option("--context", settings.shape.context, "Characters that predict the next one")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--embedding", settings.shape.embedding, "Numbers per character")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--hidden", settings.shape.hidden, "Units of each hidden layer")
      ->check(CLI::Range(1, 8192))
      ->capture_default_str();
  app.add_option("--validation-windows", settings.validation_windows,
                 "Windows for the final losses, 0 for all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--cosine-rate", settings.cosine_rate, "Learning rate of AdamW with cosine")
      ->check(rate)
      ->capture_default_str();
  app.add_option("--constant-rate", settings.constant_rate, "Learning rate of AdamW, constant")
      ->check(rate)
      ->capture_default_str();
  app.add_option("--ademamix-rate", settings.ademamix_rate, "Learning rate of AdEMAMix")
      ->check(rate)
      ->capture_default_str();
  app.add_option("--schedule-free-rate", settings.schedule_free_rate,
                 "Learning rate of Schedule-Free AdamW")
      ->check(rate)
      ->capture_default_str();
}

Corpus load_corpus(const Settings& settings) {
  if (settings.corpus.empty()) {
    return Corpus("polyak's own sources", built_in_text(), settings.shape.context);
  }
  return Corpus(std::filesystem::path(settings.corpus).filename().string(),
                read_text(settings.corpus), settings.shape.context);
}

std::vector<std::int64_t> curve_steps(std::int64_t steps) {
  std::vector<std::int64_t> result;
  const std::int64_t points = std::min<std::int64_t>(curve_points, steps);
  for (std::int64_t i = 1; i <= points; ++i) result.push_back(i * steps / points);
  return result;
}

void run(Settings settings) {
  const auto begin = Clock::now();
  const Corpus corpus = load_corpus(settings);
  settings.shape.vocabulary = corpus.vocabulary;
  prepare_folder(settings.out);

  Report report;
  report.corpus = corpus.name;
  report.steps = curve_steps(settings.steps);
  std::cout << "Corpus: " << corpus.name << ", " << corpus.train.size() << " bytes to train on, "
            << corpus.validation.size() << " to validate, " << corpus.vocabulary << " distinct\n"
            << "Model:  " << Tensors<float>(settings.shape).size() << " weights; each of "
            << run_count << " runs takes " << settings.steps << " steps of " << settings.batch
            << " windows, seed " << settings.seed << "\n";
  print_method_settings(std::cout, settings);
  std::cout << std::endl;

  Progress progress(run_count, settings.steps);
  run_adamw_cosine(corpus, settings, progress, report);
  run_adamw_constant(corpus, settings, progress, report);
  run_ademamix(corpus, settings, progress, report);
  run_schedule_free(corpus, settings, progress, report);

  std::cout << '\n';
  print_methods(std::cout, report);
  std::cout << '\n';
  print_sweep(std::cout, report);
  write_csv(settings.out, report);
  std::cout << "\nWrote curves.csv, sweep.csv and summary.csv to " << settings.out << '\n'
            << (draw_plots(settings.out, report)
                    ? "Drew curves.svg and sweep.svg there\n"
                    : "No plots: gnuplot is not installed or failed; curves.gp and sweep.gp would "
                      "draw them\n");
  std::printf("%.0f s in all\n", seconds_since(begin));
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      "Trains a character-level language model four times, with AdamW (cosine schedule), "
      "AdamW (constant rate) and weight averages, AdEMAMix and Schedule-Free AdamW, and "
      "compares what comes of it.",
      "char_lm");
  add_options(app, settings);
  try {
    app.parse(argc, argv);
    run(settings);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::cerr << "char_lm: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "char_lm: " << error.what() << '\n';
    return 1;
  }
}
