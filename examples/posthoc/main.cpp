// SPDX-License-Identifier: Apache-2.0
/// @file
/// Makes averages of any profile from a folder of snapshots, after training.
///
///   posthoc snapshots --out averages --sigma-rel 0.05 0.1 0.15 --decay 0.999 --window 1000
///   posthoc snapshots --demo          first makes snapshots of a small training run
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/polyak.hpp>

#include "profiles.hpp"
#include "settings.hpp"

#include <unistd.h>

namespace {

using posthoc::Settings;

/// "cosine:1000"
polyak::ProfileTarget cooldown(const std::string& words) {
  static const std::map<std::string, polyak::CooldownCurve> curves{
      {"linear", polyak::CooldownCurve::linear},
      {"cosine", polyak::CooldownCurve::cosine},
      {"1-sqrt", polyak::CooldownCurve::one_minus_sqrt},
      {"square", polyak::CooldownCurve::square}};
  const auto colon = words.find(':');
  const auto curve = curves.find(words.substr(0, colon));
  std::int64_t calls = 0;
  const char* const end = words.data() + words.size();
  const char* const digits = colon == std::string::npos ? end : words.data() + colon + 1;
  const auto read = std::from_chars(digits, end, calls);
  const bool number = read.ec == std::errc() && read.ptr == end;
  if (curve == curves.end() || !number) {
    throw std::invalid_argument("--cooldown " + words +
                                ": not linear, cosine, 1-sqrt or square, a colon and a number");
  }
  return polyak::ProfileTarget::cooldown(curve->second, calls);
}

std::vector<polyak::ProfileTarget> targets_of(const Settings& settings) {
  std::vector<polyak::ProfileTarget> targets;
  for (const double width : settings.sigma_rel) {
    targets.push_back(polyak::ProfileTarget::sigma_rel(width));
  }
  for (const double decay : settings.decay) targets.push_back(polyak::ProfileTarget::ema(decay));
  for (const double eta : settings.eta) targets.push_back(polyak::ProfileTarget::polynomial(eta));
  for (const auto calls : settings.window) targets.push_back(polyak::ProfileTarget::window(calls));
  for (const auto& words : settings.cooldown) targets.push_back(cooldown(words));
  if (settings.uniform) targets.push_back(polyak::ProfileTarget::uniform());
  if (settings.at > 0) {
    for (auto& target : targets) target = target.at(settings.at);
  }
  return targets;
}

/// Linear regression on noisy batches; snapshots of two power averages of it.
void make_snapshots(const std::filesystem::path& folder) {
  constexpr int features = 64, batch = 16, steps = 2048, every = 64;
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  const auto noise = [&] { return normal(random); };
  const Eigen::VectorXf truth = Eigen::VectorXf::NullaryExpr(features, noise);
  Eigen::VectorXf weight = Eigen::VectorXf::Zero(features), gradient(features);
  polyak::Parameters<float> params;
  params.add("weight", weight);
  const auto grads = polyak::like(params, gradient);
  polyak::AdamW<float> optimizer(params, {.learning_rate = 0.02, .weight_decay = 0});
  polyak::PowerEma<float> sharp(params, {.sigma_rel = 0.05}), smooth(params, {.sigma_rel = 0.10});
  polyak::SnapshotStore store(folder);
  for (int step = 1; step <= steps; ++step) {
    const Eigen::MatrixXf inputs = Eigen::MatrixXf::NullaryExpr(batch, features, noise);
    const Eigen::VectorXf error =
        inputs * (weight - truth) + Eigen::VectorXf::NullaryExpr(batch, noise);
    gradient = inputs.transpose() * error / batch;
    polyak::step(params, grads, optimizer, sharp, smooth);
    if (step % every != 0) continue;
    store.append("sharp", sharp);
    store.append("smooth", smooth);
  }
  std::cout << "made " << store.snapshots().size() << " snapshots of a run of " << steps
            << " steps in " << folder.string() << '\n';
}

void list_snapshots(const polyak::SnapshotStore& store) {
  std::printf("%-24s %-12s %12s %14s %-9s %12s\n", "average", "type", "calls", "time", "dtype",
              "rms error");
  for (const auto& one : store.snapshots()) {
    std::printf("%-24s %-12s %12lld %14.10g %-9s %12.3g\n", one.average.c_str(), one.type.c_str(),
                static_cast<long long>(one.calls), one.time,
                std::string(polyak::detail::name_of(one.dtype)).c_str(), one.rms_error);
  }
}

/// A file's name for a target: "sigma_rel-0.15.safetensors".
std::string file_name(const polyak::ProfileTarget& target) {
  std::string name = target.name();
  for (char& c : name) {
    if (c == ' ') c = '-';
  }
  return name + ".safetensors";
}

void run(const Settings& settings) {
  const auto targets = targets_of(settings);
  if (targets.empty() && !settings.list && !settings.demo) {
    throw std::invalid_argument("no target: give --sigma-rel, --decay, --window, ... or --list");
  }
  if (settings.demo) make_snapshots(settings.folder);
  const auto store = polyak::SnapshotStore::read_only(settings.folder);
  for (const std::string& problem : store.problems()) std::cerr << "left out: " << problem << '\n';
  if (settings.list) list_snapshots(store);
  const auto wanted =
      targets.empty() && settings.demo
          ? std::vector{polyak::ProfileTarget::sigma_rel(0.075), polyak::ProfileTarget::ema(0.997),
                        polyak::ProfileTarget::window(512)}
          : targets;
  if (wanted.empty()) return;
  std::filesystem::create_directories(settings.out);
  std::vector<polyak::ReconstructOutput> outputs;
  for (const auto& target : wanted) outputs.push_back({target, settings.out / file_name(target)});

  polyak::ReconstructOptions options;
  options.fit.metric = settings.updates ? polyak::Metric::update : polyak::Metric::iterate;
  options.fit.ridge = settings.ridge;
  options.fit.force = settings.force;
  static const std::map<std::string, polyak::DType> dtypes{{"float16", polyak::DType::float16},
                                                           {"bfloat16", polyak::DType::bfloat16},
                                                           {"float32", polyak::DType::float32},
                                                           {"float64", polyak::DType::float64}};
  if (!settings.dtype.empty()) options.dtype = dtypes.at(settings.dtype);
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  options.progress = [terminal](std::uint64_t done, std::uint64_t total) {
    if (terminal) {
      std::printf("\r%5.1f %% of %.1f MiB",
                  100 * static_cast<double>(done) / static_cast<double>(total),
                  static_cast<double>(total) / 0x1p20);
      std::fflush(stdout);
    }
    return true;
  };
  const auto report = polyak::reconstruct(store, outputs, options);
  if (terminal) std::printf("\r%40s\r", "");

  std::printf("%zu snapshots\n%-28s %12s %12s %12s %12s\n", report.snapshots.size(), "target",
              "residual", "of updates", "condition", "sum |w|");
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const auto& fit = report.fits[k];
    std::printf("%-28s %12.3g %12.3g %12.3g %12.3g  %s\n", outputs[k].target.name().c_str(),
                fit.residual, fit.update_residual, fit.condition, fit.absolute_sum,
                outputs[k].file.string().c_str());
  }
  std::vector<posthoc::ProfilePair> profiles;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const auto& target = outputs[k].target;
    profiles.push_back(
        {target.name(), target.profile(report.fits[k].calls), polyak::achieved_profile(report, k)});
  }
  std::cout << (posthoc::draw_profiles(settings.out, profiles)
                    ? "Drew profiles.svg: wanted against achieved\n"
                    : "No plot: gnuplot is not installed or failed; profiles.gp would draw it\n");
}

}  // namespace

int main(int count, char** arguments) {
  Settings settings;
  if (const auto code = posthoc::parse(settings, count, arguments)) return *code;
  try {
    run(settings);
  } catch (const std::exception& error) {
    std::cerr << "posthoc: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
