// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cases.hpp"

namespace polyak_bench {

/// The settings for all competitors of one benchmark.
struct Setting {
  const Case& tensors;
  std::size_t threads = 1;
  bool check = false;  ///< few steps that must show in every digit, instead of many that are timed

  /// Timed steps are too small to lead anywhere, however many there are.
  [[nodiscard]] double learning_rate() const { return check ? 0.01 : 1e-8; }
};

inline constexpr float parameter_scale = 1.0F;
inline constexpr float gradient_scale = 0.01F;

/// Calls with fewer elements are not worth a second thread, for the library as for the limit.
inline constexpr std::size_t elements_per_thread_pair = 16 * 1024;

/// A competitor with data of its own.
class Racer {
 public:
  Racer() = default;
  Racer(const Racer&) = delete;
  Racer& operator=(const Racer&) = delete;
  virtual ~Racer() = default;

  /// One step over all elements.
  virtual void pass() = 0;

  // For checks.

  /// Sets the gradients to the usual ones times `factor`.
  virtual void scale_gradients(float factor) = 0;
  /// The parameters and then each average, tensor after tensor.
  [[nodiscard]] virtual std::vector<float> results() = 0;
};

using MakeRacer = std::function<std::unique_ptr<Racer>(const Setting&)>;

/// A competitor that users have today; `counter` is the name of its ratio to the library's time.
struct Peer {
  std::string counter;
  MakeRacer make;
  bool threaded = false;  ///< otherwise it runs with one thread only
  bool frugal = false;    ///< its memory leaves room for the largest case
};

}  // namespace polyak_bench
