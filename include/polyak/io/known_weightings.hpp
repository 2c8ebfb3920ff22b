// SPDX-License-Identifier: Apache-2.0
/// @file
/// The weightings of the library by their names in files, to compute the gains of a stored average.
/// Add every new weighting of the library to this list; a test compares it with the headers.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/schedules/stream_weighting.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/core/option_reader.hpp>
#include <polyak/core/options.hpp>
#include <polyak/merge/merge_as_decay.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// PowerEma at a constant pace, in calls: used when PowerClock is read from a file.
struct PacedPowerWeighting {
  static constexpr std::string_view type_name = PowerClock::type_name;
  double gamma = 0;
  std::int64_t update_every = 1;
  [[nodiscard]] double gain(std::int64_t t) const {
    return t % update_every == 0 ? PowerWeighting::gain(gamma, static_cast<double>(update_every),
                                                        static_cast<double>(t))
                                 : 0;
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const auto time = static_cast<double>(t);
    return t % update_every == 0
               ? std::pow((time - static_cast<double>(update_every)) / time, gamma + 1)
               : 1;
  }
};
template <class Fields>
void fields(PacedPowerWeighting& w, Fields& field) {
  field("gamma", w.gamma, finite_and_not_negative);
  field("update_every", w.update_every, at_least_1);
}

/// RepeatedWeighting is missing, because older records of it do not name the weighting that it
/// repeats, and so are weightings with a clock of their own, which are not stored.
using KnownWeightings =
    std::tuple<UniformWeighting, ExponentialWeighting, PolynomialWeighting, PowerWeighting,
               PacedPowerWeighting, TfWarmupWeighting, InverseGammaWeighting, TailWeighting,
               StreamWeighting, DiffusersWeighting, TimmWeighting, EmaPytorchWeighting,
               IntervalWeighting, AnnealedWeighting, HalfLifeWeighting, CosineDecayWeighting,
               GainWarmupWeighting, PowerGainWeighting, HareTortoiseWeighting, SwitchWeighting,
               MergeWeighting>;

/// A weighting whose fields have not been read yet.
template <class W>
[[nodiscard]] W blank_weighting() {
  if constexpr (std::default_initializable<W>) {
    return W{};
  } else {
    return W(std::vector<double>{1.0});
  }
}

/// The gains of a weighting by its name and its options as text.
struct NamedGains {
  std::optional<GainSequence> gains;
  std::string problem;  ///< of the options; no gains and no problem: an unknown name
};
[[nodiscard]] inline NamedGains gains_of(std::string_view name,
                                         const std::map<std::string, std::string>& options) {
  NamedGains found;
  const auto take = [&]<class W>(std::type_identity<W>) {
    if (name != W::type_name) return false;
    W weighting = blank_weighting<W>();
    found.problem = read_options(options, weighting);
    if (found.problem.empty()) found.gains.emplace(std::move(weighting));
    return true;
  };
  [&]<class... W>(std::type_identity<std::tuple<W...>>) {
    static_cast<void>((take(std::type_identity<W>()) || ...));
  }(std::type_identity<KnownWeightings>());
  return found;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
