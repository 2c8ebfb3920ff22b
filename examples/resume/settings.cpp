// SPDX-License-Identifier: Apache-2.0
#include "settings.hpp"

#include <CLI/CLI.hpp>

namespace resume {

std::optional<int> parse(Settings& settings, int count, char** arguments) {
  CLI::App app(
      "Trains a small network. Kill it at any time and start it again: it goes on from its last "
      "save, and ends with the digest of a run that was never disturbed.");
  app.add_option("--file", settings.file,
                 "State of the run; with --prove a folder [resume.safetensors]");
  app.add_option("--steps", settings.steps, "Training steps")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000'000}))
      ->capture_default_str();
  app.add_option("--save-every", settings.save_every, "Steps from one save to the next")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "Seed of weights and batches")->capture_default_str();
  app.add_option("--prove", settings.kills,
                 "Kill the run this often at random moments and compare it with one left alone")
      ->check(CLI::PositiveNumber);
  try {
    app.parse(count, arguments);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  if (settings.kills > 0 && app.count("--file") == 0) settings.file = "resume-proof";
  return std::nullopt;
}

}  // namespace resume
