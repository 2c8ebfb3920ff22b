// SPDX-License-Identifier: Apache-2.0
/// @file
/// polyak_frozen_average [--svg FILE]: averages that stall, and averages that do not.
///
/// 64 float weights drift slowly under noise, x_t = w (1 + d t + noise), for 3 million steps. Each
/// way of keeping their EMA is compared with Ema<double> of the same numbers. An average is read as
/// float, so 2^-24 = 6e-8 is as close as any of them can be seen. Prints a markdown table; with
/// --svg, gnuplot draws the errors over the steps.
#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>

namespace {

constexpr std::size_t elements = 64;
constexpr std::int64_t steps = 3'000'000, compared_every = 500, drawn_every = 15'000;
constexpr double noise_size = 1e-3, drift_per_step = 1e-8;
constexpr std::array<double, 4> decays{0.999, 0.9999, 0.99999, 0.999999};

/// The same weights on every machine.
class Weights {
 public:
  Weights() : exact(elements), seen(elements) { advance(0); }
  void advance(std::int64_t step) {
    for (std::size_t k = 0; k < elements; ++k) {
      const auto place = static_cast<double>(k) / elements;
      const double drift = (k % 2 == 0 ? 1 : -1) * (0.5 + place) * drift_per_step;
      const double value =
          (1 + place) * (1 + drift * static_cast<double>(step) + noise_size * noise());
      seen[k] = static_cast<float>(value);
      exact[k] = static_cast<double>(seen[k]);
    }
  }
  std::vector<double> exact;  ///< the floats again, as doubles
  std::vector<float> seen;

 private:
  /// Of variance 1 and in (-sqrt 6, sqrt 6): the sum of two uniform numbers, by splitmix64.
  double noise() {
    std::uint64_t bits = state_ += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    const auto low = static_cast<double>(bits & 0xffffffffu) * 0x1p-32;
    return std::sqrt(6.0) * (low + static_cast<double>(bits >> 32) * 0x1p-32 - 1);
  }
  std::uint64_t state_ = 1;
};

/// The largest relative error, by steps.
struct Curve {
  std::vector<std::pair<std::int64_t, double>> points;
  double half = 0, end = 0;  ///< over the second half of the run; after it

  void add(std::int64_t step, double error) {
    if (step % drawn_every == 0) points.emplace_back(step, error);
    if (2 * step >= steps) half = std::max(half, error);
    end = error;
  }
};

template <class View>
double error_of(const View& average, const std::array<double, elements>& expected) {
  double worst = 0;
  for (std::size_t k = 0; k < elements; ++k) {
    const auto value = static_cast<double>(static_cast<float>(average(k)));
    worst = std::max(worst, std::fabs(value / expected[k] - 1));
  }
  return worst;
}

constexpr std::array<std::string_view, 4> ways{"float32, plain", "float32, kahan",
                                               "float32, float64", "bfloat16, stochastic"};

/// The four ways and the reference, of one decay.
class Race {
 public:
  using Ema32 = polyak::Ema<float>;
  using Ema16 = polyak::Ema<float, Eigen::bfloat16>;

  Race(double of_decay, const polyak::Parameters<float>& params,
       const polyak::Parameters<double>& exact)
      : decay(of_decay),
        reference_(exact, {.decay = decay}),
        plain_(params, {.decay = decay}),
        kahan_(params, {.decay = decay, .accumulate = polyak::Accumulate::kahan}),
        wide_(params, {.decay = decay, .accumulate = polyak::Accumulate::float64}) {
    // An average that would rest more than 1 % from a constant weight is refused.
    if (polyak::dead_zone<Eigen::bfloat16>(1 - decay, polyak::Accumulate::stochastic) > 0.01)
      return;
    sixteen_.emplace(params,
                     polyak::EmaOptions{
                         .decay = decay, .accumulate = polyak::Accumulate::stochastic, .seed = 1});
  }

  void update(const polyak::Parameters<float>& params, const polyak::Parameters<double>& exact) {
    reference_.update(exact);
    plain_.update(params);
    kahan_.update(params);
    wide_.update(params);
    if (sixteen_) sixteen_->update(params);
  }
  void compare(std::int64_t step) {
    std::array<double, elements> expected{}, wide{};
    for (std::size_t k = 0; k < elements; ++k) {
      expected[k] = reference_.view()[0](k);
      wide[k] = static_cast<double>(wide_.view()[0](k));
    }
    curves[0].add(step, error_of(plain_.view()[0], expected));
    curves[1].add(step, error_of(kahan_.view()[0], expected));
    curves[2].add(step, error_of(wide_.view()[0], expected));
    if (sixteen_) curves[3].add(step, error_of(sixteen_->view()[0], expected));
    kahan_from_wide = std::max(kahan_from_wide, error_of(kahan_.view()[0], wide));
    const auto low = kahan_.slots().tensor(1, 0);
    for (std::size_t k = 0; k < elements; ++k) {
      const double sum =
          static_cast<double>(kahan_.view()[0](k)) + static_cast<double>(low.data()[k]);
      kahan_sum = std::max(kahan_sum, std::fabs(sum / expected[k] - 1));
    }
  }

  double decay;
  std::array<Curve, ways.size()> curves;
  // Largest relative distances at any step compared.
  double kahan_from_wide = 0;  ///< of the two as read
  double kahan_sum = 0;        ///< of the sum of average and compensation from the reference

 private:
  polyak::Ema<double> reference_;
  Ema32 plain_, kahan_, wide_;
  std::optional<Ema16> sixteen_;
};

void print(const std::vector<Race>& races) {
  std::printf(
      "| decay | average | largest relative error at the end | over the second half | "
      "rests within |\n| --- | --- | ---: | ---: | ---: |\n");
  for (const Race& race : races) {
    const std::array<double, ways.size()> zones{
        polyak::dead_zone<float>(1 - race.decay),
        polyak::dead_zone<float>(1 - race.decay, polyak::Accumulate::kahan),
        polyak::dead_zone<float>(1 - race.decay, polyak::Accumulate::float64),
        polyak::dead_zone<Eigen::bfloat16>(1 - race.decay, polyak::Accumulate::stochastic)};
    for (std::size_t way = 0; way < ways.size(); ++way) {
      if (race.curves[way].points.empty()) continue;
      std::printf("| %g | %.*s | %.1e | %.1e | %.1e |\n", race.decay,
                  static_cast<int>(ways[way].size()), ways[way].data(), race.curves[way].end,
                  race.curves[way].half, zones[way]);
    }
  }
  std::printf("\n");
  for (const Race& race : races) {
    std::printf(
        "decay %g: kahan and float64, read as float, differ by at most %.1e (an ulp is up to "
        "1.2e-07); kahan's two slots together and double by %.1e\n",
        race.decay, race.kahan_from_wide, race.kahan_sum);
  }
}

// In single quotes gnuplot interprets nothing but the quote itself.
std::string quoted(std::string_view text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("''") : std::string(1, c);
  return result + "'";
}

std::string number(double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.6g", value);
  return digits;
}

/// The reason why there is no plot; empty if there is one.
std::string draw(const std::vector<Race>& races, const std::string& path) {
  std::string script =
      "set terminal svg size 1080,500 noenhanced font 'sans-serif,13' background 'white'\n"
      "set output " +
      quoted(path) +
      "\n"
      "set multiplot layout 1," +
      std::to_string(races.size()) +
      " title 'Largest relative error of 64 averages against double, over 3 million steps'\n"
      "set grid linecolor 'gray85'\n"
      "set logscale y\n"
      "set yrange [1e-8:1e-1]\n"
      "set format y '1e%T'\n"
      "set xrange [0:3]\n"
      "set xlabel 'million steps'\n"
      "set bmargin 8\n";
  constexpr std::array colours{"#d55e00", "#56b4e9", "black", "gray60"};
  for (std::size_t r = 0; r < races.size(); ++r) {
    std::string plots;
    // The noisiest first, so that it lies below; float64 dashed, as it lies on kahan.
    for (const std::size_t way : {3u, 0u, 1u, 2u}) {
      if (races[r].curves[way].points.empty()) continue;
      const std::string name = "$curve" + std::to_string(r) + std::to_string(way);
      script += name + " << end\n";
      for (const auto& [step, error] : races[r].curves[way].points) {
        script += number(static_cast<double>(step) / 1e6) + " " +
                  (error > 0 ? number(error) : std::string("NaN")) + "\n";
      }
      script += "end\n";
      plots += (plots.empty() ? "plot " : ", \\\n  ") + name + " using 1:2 with lines linewidth " +
               (way == 2 ? "2 dashtype 2" : "2") + " linecolor '" + colours[way] + "' " +
               (r == 0 ? "title " + quoted(ways[way]) : std::string("notitle"));
    }
    script += "set title 'decay " + number(races[r].decay) + "'\n";
    script += r == 0 ? "set key at screen 0.5,0.09 center Left reverse samplen 3\n" : "";
    script += plots + "\n";
  }
  script += "unset multiplot\n";
  std::signal(SIGPIPE, SIG_IGN);  // a gnuplot that gives up shows in its exit status
  std::FILE* gnuplot = ::popen("gnuplot 2> /dev/null", "w");
  if (gnuplot == nullptr) return "cannot start gnuplot";
  std::fwrite(script.data(), 1, script.size(), gnuplot);
  return ::pclose(gnuplot) == 0 ? "" : "gnuplot could not draw " + path;
}

int fail(const std::string& what) {
  std::fprintf(stderr, "polyak_frozen_average: %s\n", what.c_str());
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  std::string path;
  if (count != 1) {
    if (count != 3 || std::string_view(arguments[1]) != "--svg") {
      return fail("usage: polyak_frozen_average [--svg FILE]");
    }
    path = arguments[2];
    if (std::system("gnuplot --version > /dev/null 2>&1") != 0) {
      return fail("--svg needs gnuplot, which is not installed");
    }
    if (!std::ofstream(path, std::ios::app)) return fail("cannot write " + path);
  }

  Weights weights;
  polyak::Parameters<float> params;
  params.add("x", weights.seen);
  polyak::Parameters<double> exact;
  exact.add("x", weights.exact);
  std::vector<Race> races;
  for (const double decay : decays) races.emplace_back(decay, params, exact);
  for (std::int64_t step = 1; step <= steps; ++step) {
    weights.advance(step);
    for (Race& race : races) race.update(params, exact);
    if (step % compared_every != 0) continue;
    for (Race& race : races) race.compare(step);
  }
  print(races);
  const std::string problem = path.empty() ? "" : draw(races, path);
  return problem.empty() ? 0 : fail(problem);
}
