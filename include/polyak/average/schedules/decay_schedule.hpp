// SPDX-License-Identifier: Apache-2.0
/// @file
/// Exponential averages whose decay changes: the schedules of other libraries, with the same
/// behaviour as there, for `Average(params, DiffusersWeighting{...})`.
///
///   avg_t = d_t avg_{t-1} + (1 - d_t) x_t         t = 1, 2, ...: the number of the call
///
///   warm(s)  = 1 - (1 + s/inverse_gamma)^-power                           a cap that grows with s
///   DiffusersWeighting    s = max(0, t - update_after - 1);  s = 0: copy
///                         d = max(min(warm(s) or (1+s)/(10+s), decay), min_decay)
///   TimmWeighting         the same, but without warmup d = decay
///   EmaPytorchWeighting   acts where (t-1) % update_every = 0;  t-1 <= update_after: copy
///                         d = warm(t-1-update_after) within [min_decay, decay]
///   IntervalWeighting     t-1 < warmup: rest;  t-1 = warmup: copy
///                         (t-1) % interval = 0: d = decay
///   AnnealedWeighting     1 - d = max(min_gain, gamma/(gamma + t - 1))
///   HalfLifeWeighting     d = 2^(-batch/h),  h = min(half_life, rampup t batch)     in samples
///   CosineDecayWeighting  1 - d = (1 - base)(1 + cos(pi min(t-1, K)/K))/2           BYOL
///   GainWarmupWeighting   1 - d falls exponentially or linearly to gain_at_end
///   PowerGainWeighting    1 - d = max(min_gain, (t - burn_in)^-alpha);  t <= burn_in: copy
///
/// Decays are not corrected for skipped calls unless stated. `validate` and the constructor of
/// Average throw std::invalid_argument for fields out of range. RepeatedWeighting puts any of them
/// on another clock (repeated_weighting.hpp).
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include <polyak/average/schedules/decay_warmup.hpp>
#include <polyak/core/options.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// `EMAModel` of Hugging Face's diffusers. Without `warmup` it still warms up, by (1+s)/(10+s): for
/// a constant decay use Ema.
struct DiffusersWeighting {
  static constexpr std::string_view type_name = "diffusers";
  double decay = 0.9999;          ///< in [0, 1]
  double min_decay = 0;           ///< in [0, decay]
  std::int64_t update_after = 0;  ///< calls that copy before the average begins, >= 0
  bool warmup = false;            ///< warm(s), else (1+s)/(10+s)
  double inverse_gamma = 1;       ///< finite, > 0
  double power = 2.0 / 3.0;       ///< finite, >= 0

  [[nodiscard]] double least_gain() const { return 1 - decay; }
  [[nodiscard]] double gain(std::int64_t t) const {
    const std::int64_t s = t - update_after - 1;
    if (s <= 0) return 1;
    if (warmup) return detail::warm_gain(*this, s);
    return detail::gain_within(9 / (10 + static_cast<double>(s)), decay, min_decay);
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const std::int64_t s = t - update_after - 1;
    if (s <= 0) return 0;
    if (warmup) return detail::warm_decay(*this, s);
    const auto n = static_cast<double>(s);
    return detail::within((1 + n) / (10 + n), decay, min_decay);
  }
};
template <class Fields>
void fields(DiffusersWeighting& w, Fields& field) {
  detail::warmup_fields(w, field);
  field("warmup", w.warmup);
}

/// `ModelEmaV3` of timm, given the step: the number of finished optimizer steps, from 1.
struct TimmWeighting {
  static constexpr std::string_view type_name = "timm";
  double decay = 0.9999;          ///< in [0, 1]
  double min_decay = 0;           ///< in [0, decay]; of the warmup
  std::int64_t update_after = 0;  ///< calls that copy before the average begins, >= 0
  bool warmup = false;            ///< warm(s), else `decay` at once
  double inverse_gamma = 1;       ///< finite, > 0
  double power = 2.0 / 3.0;       ///< finite, >= 0

  [[nodiscard]] double least_gain() const { return 1 - decay; }
  [[nodiscard]] double gain(std::int64_t t) const {
    const std::int64_t s = t - update_after - 1;
    return s <= 0 ? 1 : warmup ? detail::warm_gain(*this, s) : 1 - decay;
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const std::int64_t s = t - update_after - 1;
    return s <= 0 ? 0 : warmup ? detail::warm_decay(*this, s) : decay;
  }
};
template <class Fields>
void fields(TimmWeighting& w, Fields& field) {
  detail::warmup_fields(w, field);
  field("warmup", w.warmup);
}

/// `EMA` of ema-pytorch, in double; the reference computes the decay in float. With decay 1 it
/// never moves after its copies.
struct EmaPytorchWeighting {
  static constexpr std::string_view type_name = "ema_pytorch";
  double decay = 0.9999;            ///< "beta", in [0, 1]
  double min_decay = 0;             ///< "min_value", in [0, decay]
  std::int64_t update_after = 100;  ///< calls before which it copies, >= 0
  std::int64_t update_every = 10;   ///< calls from one update to the next, >= 1
  double inverse_gamma = 1;         ///< finite, > 0
  double power = 2.0 / 3.0;         ///< finite, >= 0

  [[nodiscard]] double least_gain() const { return 1 - decay; }
  [[nodiscard]] double gain(std::int64_t t) const { return detail::ema_pytorch_gain(*this, t); }
  [[nodiscard]] double complement(std::int64_t t) const {
    return detail::ema_pytorch_complement(*this, t);
  }
};
template <class Fields>
void fields(EmaPytorchWeighting& w, Fields& field) {
  detail::warmup_fields(w, field);
  field("update_every", w.update_every, at_least_1);
}

/// `ExponentialWeightAverager` of "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
/// Durations" (arXiv 2405.18392): one update per interval after a warmup; intervals are counted
/// from the first call.
struct IntervalWeighting {
  static constexpr std::string_view type_name = "interval";
  double decay = 0.95;        ///< of each update, in [0, 1]
  std::int64_t interval = 1;  ///< calls from one update to the next, >= 1
  std::int64_t warmup = 0;    ///< calls before the copy that begins the average, >= 0

  [[nodiscard]] double least_gain() const { return 1 - decay; }
  [[nodiscard]] double gain(std::int64_t t) const {
    if (t - 1 <= warmup) return t - 1 == warmup ? 1 : 0;
    return (t - 1) % interval == 0 ? 1 - decay : 0;
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    if (t - 1 <= warmup) return t - 1 == warmup ? 0 : 1;
    return (t - 1) % interval == 0 ? decay : 1;
  }
};
template <class Fields>
void fields(IntervalWeighting& w, Fields& field) {
  field("decay", w.decay, in_closed_0_1);
  field("interval", w.interval, at_least_1);
  field("warmup", w.warmup, at_least_0);
}

/// `MomentumAnnealingEMA` of MMEngine: the gain of an equal average, scaled by gamma, down to a
/// minimum.
struct AnnealedWeighting {
  static constexpr std::string_view type_name = "annealed";
  double min_gain = 2e-4;  ///< in (0, 1]
  double gamma = 100;      ///< finite, > 0

  [[nodiscard]] double least_gain() const { return min_gain; }
  [[nodiscard]] double gain(std::int64_t t) const {
    return std::fmax(min_gain, gamma / (gamma + static_cast<double>(t - 1)));
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const auto n = static_cast<double>(t - 1);
    return std::fmin(1 - min_gain, n / (gamma + n));
  }
};
template <class Fields>
void fields(AnnealedWeighting& w, Fields& field) {
  field("min_gain", w.min_gain, in_0_1_above_0);
  field("gamma", w.gamma, finite_and_positive);
}

/// `TraditionalEMA` of EDM2: a half-life in samples that grows with the training, up to a limit.
struct HalfLifeWeighting {
  static constexpr std::string_view type_name = "half_life";
  double half_life = 0.5e6;  ///< in samples, > 0; infinity: the rampup alone
  double rampup = 0.09;      ///< half-life over the samples so far, > 0; infinity: none
  double batch_size = 1;     ///< samples per call, finite, > 0

  [[nodiscard]] double least_gain() const {
    return -std::expm1(-std::numbers::ln2 * batch_size / half_life);
  }
  [[nodiscard]] double gain(std::int64_t t) const { return -std::expm1(exponent(t)); }
  [[nodiscard]] double complement(std::int64_t t) const { return std::exp(exponent(t)); }

 private:
  [[nodiscard]] double exponent(std::int64_t t) const {
    const double grown = rampup * static_cast<double>(t) * batch_size;
    return -std::numbers::ln2 * batch_size / std::fmax(std::fmin(half_life, grown), 1e-8);
  }
};
template <class Fields>
void fields(HalfLifeWeighting& w, Fields& field) {
  field("half_life", w.half_life, above_0);
  field("rampup", w.rampup, above_0);
  field("batch_size", w.batch_size, finite_and_positive);
}

/// "Bootstrap your own latent" (arXiv 2006.07733): the decay goes from `base_decay` to 1.
struct CosineDecayWeighting {
  static constexpr std::string_view type_name = "cosine_decay";
  double base_decay = 0.996;        ///< in [0, 1]
  std::int64_t total_steps = 1000;  ///< K >= 1; the average rests after it

  [[nodiscard]] bool weighs_initial() const { return true; }
  [[nodiscard]] double gain(std::int64_t t) const {
    if (t - 1 >= total_steps) return 0;
    // (1 + cos a)/2 = cos(a/2)^2, which is exact to rounding near a = pi.
    const double half = std::cos(std::numbers::pi / 2 * static_cast<double>(t - 1) /
                                 static_cast<double>(total_steps));
    return (1 - base_decay) * half * half;
  }
  [[nodiscard]] double complement(std::int64_t t) const { return 1 - gain(t); }
};
template <class Fields>
void fields(CosineDecayWeighting& w, Fields& field) {
  field("base_decay", w.base_decay, in_closed_0_1);
  field("total_steps", w.total_steps, at_least_1);
}

/// The gains of the detection hooks of Switch EMA (arXiv 2402.09240), i = t - 1:
/// exponential (1 - gain) exp(-(1+i)/steps) + gain; linear max(gain, (1 - gain)(1 - i/steps)(1 -
/// ratio)).
struct GainWarmupWeighting {
  static constexpr std::string_view type_name = "gain_warmup";
  double gain_at_end = 2e-4;  ///< in (0, 1]
  std::int64_t steps = 2000;  ///< of the warmup, >= 1
  bool linear = false;        ///< else exponential
  double warmup_ratio = 0;    ///< of the linear one, in [0, 1]

  [[nodiscard]] double least_gain() const { return gain_at_end; }
  [[nodiscard]] double gain(std::int64_t t) const {
    const auto i = static_cast<double>(t - 1), n = static_cast<double>(steps);
    if (!linear) return (1 - gain_at_end) * std::exp(-(1 + i) / n) + gain_at_end;
    return std::fmax(gain_at_end, (1 - gain_at_end) * (1 - i / n) * (1 - warmup_ratio));
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    if (linear) return 1 - gain(t);
    return (gain_at_end - 1) * std::expm1(-static_cast<double>(t) / static_cast<double>(steps));
  }
};
template <class Fields>
void fields(GainWarmupWeighting& w, Fields& field) {
  field("gain_at_end", w.gain_at_end, in_0_1_above_0);
  field("steps", w.steps, at_least_1);
  field("linear", w.linear);
  field("warmup_ratio", w.warmup_ratio, in_closed_0_1);
}

/// A gain that falls by a power of the time, as in "Butterfly Effects of SGD Noise" (arXiv
/// 2310.11428). alpha = 1 without a minimum is uniform.
struct PowerGainWeighting {
  static constexpr std::string_view type_name = "power_gain";
  double alpha = 0.67;       ///< in (0, 1]
  double min_gain = 0;       ///< in [0, 1]
  std::int64_t burn_in = 0;  ///< calls that copy, >= 0

  [[nodiscard]] double least_gain() const { return min_gain; }
  [[nodiscard]] double gain(std::int64_t t) const {
    if (t - burn_in <= 1) return 1;
    return std::fmax(min_gain, std::pow(static_cast<double>(t - burn_in), -alpha));
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    if (t - burn_in <= 1) return 0;
    const double kept = -std::expm1(-alpha * std::log(static_cast<double>(t - burn_in)));
    return std::fmin(1 - min_gain, kept);
  }
};
template <class Fields>
void fields(PowerGainWeighting& w, Fields& field) {
  field("alpha", w.alpha, in_0_1_above_0);
  field("min_gain", w.min_gain, in_closed_0_1);
  field("burn_in", w.burn_in, at_least_0);
}

}  // namespace POLYAK_V0
}  // namespace polyak
