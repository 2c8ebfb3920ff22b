// SPDX-License-Identifier: Apache-2.0
/// @file
/// A training run that may be killed at any time and continues from its last save, bit for bit.
///
///   resume                 trains; run it again after a kill and it continues
///   resume --prove 20      trains once undisturbed and once killed 20 times, and compares
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/polyak.hpp>

#include "settings.hpp"

#include <sys/wait.h>
#include <unistd.h>

namespace {

using resume::Settings;

/// A network of one hidden layer that learns the values of another one, and all that a resumed run
/// needs: weights, optimizer, averages, and the generator that draws the batches.
class Training {
 public:
  explicit Training(unsigned seed) : random_(seed) {}
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  [[nodiscard]] std::int64_t steps() const { return optimizer_.count(); }

  void step() {
    const Matrix x = Matrix::NullaryExpr(features, batch, [&] { return normal_(random_); });
    const Matrix wanted = truth_out_ * (truth_in_ * x).array().tanh().matrix();
    const Matrix hidden = ((in_ * x).colwise() + bias_).array().tanh();
    const Matrix error = (out_ * hidden - wanted) / batch;
    const Matrix back = (out_.transpose() * error).array() * (1 - hidden.array().square());
    out_gradient_ = error * hidden.transpose();
    in_gradient_ = back * x.transpose();
    bias_gradient_ = back.rowwise().sum();
    optimizer_.at(3e-3 * polyak::linear_warmup(steps(), 100));
    polyak::step(params_, grads_, optimizer_, ema_, power_ema_);
  }

  /// One atomic file holds the run; the generator's state goes along as text.
  void save(const std::filesystem::path& file) const {
    std::ostringstream random;
    random << random_ << ' ' << normal_;
    polyak::save(file, {.metadata = {{"random", random.str()}}}, params_, optimizer_, ema_,
                 power_ema_);
  }

  void load(const std::filesystem::path& file) {
    const auto found = polyak::load(file, params_, optimizer_, ema_, power_ema_);
    std::istringstream(found.metadata.at("random")) >> random_ >> normal_;
  }

 private:
  static constexpr int features = 24, units = 48, outputs = 4, batch = 32;
  using Matrix = Eigen::MatrixXf;
  [[nodiscard]] Matrix drawn(int rows, int columns) {
    return Matrix::NullaryExpr(rows, columns, [&] { return 0.3F * normal_(random_); });
  }

  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;  // keeps a number in reserve, so it is saved too
  Matrix truth_in_ = drawn(units, features), truth_out_ = drawn(outputs, units);
  Matrix in_ = drawn(units, features), out_ = drawn(outputs, units);
  Eigen::VectorXf bias_ = Eigen::VectorXf::Zero(units);
  Matrix in_gradient_{in_}, out_gradient_{out_};
  Eigen::VectorXf bias_gradient_{bias_};

  polyak::Parameters<float> params_ = std::move(
      polyak::Parameters<float>().add("in.weight", in_).add("in.bias", bias_).add("out", out_));
  polyak::Gradients<float> grads_ =
      polyak::like(params_, in_gradient_, bias_gradient_, out_gradient_);
  polyak::AdamW<float> optimizer_{params_, {.weight_decay = 0.01}};
  polyak::Ema<float> ema_{params_, {.decay = 0.99}};
  polyak::PowerEma<float> power_ema_{params_, {.sigma_rel = 0.1}};
};

/// The digest of a saved run: the digest of its header, which contains the digests of all tensors.
/// Empty if the program was built without xxHash.
std::string digest(const std::filesystem::path& file) {
  const polyak::SafetensorsFile saved(file);
  const auto found = saved.metadata().find("xxh3_128");
  return found == saved.metadata().end() ? std::string() : found->second;
}

void train(const Settings& settings, bool quiet) {
  Training training(settings.seed);
  if (std::filesystem::exists(settings.file)) {
    training.load(settings.file);
    if (!quiet) std::cout << "goes on from step " << training.steps() << std::endl;
  }
  while (training.steps() < settings.steps) {
    training.step();
    if (training.steps() % settings.save_every == 0 || training.steps() == settings.steps) {
      training.save(settings.file);
      if (!quiet) std::cout << "saved step " << training.steps() << '\r' << std::flush;
    }
  }
  if (quiet) return;
  const std::string saved = digest(settings.file);
  std::cout << "step " << training.steps()
            << (saved.empty() ? ", no digest without xxHash" : ", digest " + saved) << '\n';
}

/// Trains in a process of its own, which is killed after `patience` microseconds, or not at all for
/// 0. Returns whether it came to its end.
bool train_in_child(const Settings& settings, unsigned patience) {
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork() failed");
  if (child == 0) {
    try {
      train(settings, true);
    } catch (const std::exception& error) {
      std::cerr << "resume: " << error.what() << std::endl;
      ::_exit(1);
    }
    ::_exit(0);
  }
  if (patience > 0) {
    ::usleep(patience);
    ::kill(child, SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) throw std::runtime_error("training failed");
  return WIFEXITED(status);
}

/// The step of a saved run, 0 before the first save.
std::int64_t saved_steps(const Settings& settings) {
  if (!std::filesystem::exists(settings.file)) return 0;
  Training training(settings.seed);
  training.load(settings.file);
  return training.steps();
}

bool prove(Settings settings) {
  std::filesystem::create_directories(settings.file);
  const std::filesystem::path folder = settings.file;
  settings.file = folder / "undisturbed.safetensors";
  std::filesystem::remove(settings.file);
  const auto begin = std::chrono::steady_clock::now();
  train(settings, true);
  const std::chrono::duration<double, std::micro> whole = std::chrono::steady_clock::now() - begin;
  const std::string wanted = digest(settings.file);
  if (wanted.empty()) {
    throw std::runtime_error("--prove compares digests, and this program was built without xxHash");
  }
  std::cout << "undisturbed:      " << wanted << '\n';

  settings.file = folder / "killed.safetensors";
  std::filesystem::remove(settings.file);
  std::mt19937 random(settings.seed);
  std::int64_t last = 0;
  int kills = 0;
  for (; kills < settings.kills; ++kills) {
    // Each life is long enough for a few of the kills to matter, and too short for all the steps.
    const double life = std::max(2 * whole.count() / settings.kills, 3000.0);
    const auto patience =
        static_cast<unsigned>(std::uniform_real_distribution<double>(1, life)(random));
    if (train_in_child(settings, patience)) break;
    const std::int64_t steps = saved_steps(settings);
    std::cout << "killed at or after step " << steps << '\n';
    if (steps < last) throw std::runtime_error("a save was lost");
    last = steps;
  }
  train_in_child(settings, 0);
  const std::string found = digest(settings.file);
  std::cout << "killed " << kills << " times:" << std::string(kills < 10 ? 3 : 2, ' ') << found
            << '\n'
            << (found == wanted ? "equal, bit for bit" : "DIFFERENT") << '\n';
  return found == wanted;
}

}  // namespace

int main(int count, char** arguments) {
  Settings settings;
  if (const auto code = resume::parse(settings, count, arguments)) return *code;
  try {
    if (settings.kills > 0) return prove(settings) ? 0 : 1;
    train(settings, false);
  } catch (const std::exception& error) {
    std::cerr << "resume: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
