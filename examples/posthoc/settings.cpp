// SPDX-License-Identifier: Apache-2.0
#include "settings.hpp"

#include <CLI/CLI.hpp>

#include <iostream>

namespace posthoc {

std::optional<int> parse(Settings& settings, int count, char** arguments) {
  CLI::App app(
      "Makes averages of any profile from a folder of snapshots (polyak::SnapshotStore), after "
      "training, in one pass over the snapshots. Each becomes a safetensors file.",
      "posthoc");
  app.add_option("folder", settings.folder, "Folder of snapshots")->required();
  app.add_option("--out", settings.out, "Folder for averages, profiles.csv and profiles.svg")
      ->capture_default_str();
  app.add_option("--sigma-rel", settings.sigma_rel, "Power averages of these relative widths");
  app.add_option("--decay", settings.decay, "Exponential averages of these decays, debiased");
  app.add_option("--window", settings.window, "Means of this many last calls");
  app.add_option("--polynomial", settings.eta, "Polynomial-decay averages of these eta");
  app.add_option("--cooldown", settings.cooldown,
                 "As a learning rate that falls over the last calls: linear, cosine, 1-sqrt or "
                 "square, a colon, and their number");
  app.add_flag("--uniform", settings.uniform, "The mean of all calls");
  app.add_option("--at", settings.at, "Call that the averages belong to [the last snapshot's]")
      ->check(CLI::PositiveNumber);
  app.add_option("--dtype", settings.dtype, "Type of the averages")
      ->check(CLI::IsMember({"float16", "bfloat16", "float32", "float64"}));
  app.add_option("--ridge", settings.ridge, "Keeps weights small; see ProfileFitOptions")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--updates", settings.updates, "Fit in the update metric, as cooldowns need");
  app.add_flag("--force", settings.force, "Also averages that the snapshots cannot reach");
  app.add_flag("--list", settings.list, "List the snapshots");
  app.add_flag("--demo", settings.demo, "First make snapshots of a small training run there");
  try {
    app.parse(count, arguments);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::cerr << "posthoc: " << error.what() << '\n';
    return 2;
  }
  return std::nullopt;
}

}  // namespace posthoc
