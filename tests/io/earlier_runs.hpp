// SPDX-License-Identifier: Apache-2.0
/// @file
/// The training runs whose files are kept in files_of_*/. The program that wrote the files and the
/// test that reads them both build their runs here, each against its own version of the library.
/// Nothing here may change: it would no longer be the run that was saved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/io.hpp>
#include <polyak/polyak.hpp>

namespace earlier {

constexpr std::uint64_t saved_after = 5;  ///< steps before the file was written
constexpr std::uint64_t steps = 9;        ///< steps in all

/// A number in [-1, 1) that depends on place and seed alone (splitmix64).
[[nodiscard]] inline double number(std::uint64_t place, std::uint64_t seed) {
  std::uint64_t bits = (place + 1) * 0x9e3779b97f4a7c15u + (seed + 1) * 0xd1b54a32d192ed03u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  bits ^= bits >> 31;
  return static_cast<double>(bits >> 11) / 4503599627370496.0 - 1;
}

/// A small model: matrices of both storage orders, a vector, a scalar, an alias, an empty tensor,
/// buffers that averages copy, and a tensor that they ignore.
template <class P>
class Model {
 public:
  explicit Model(const std::string& prefix)
      : matrix_(numbers(39, 1)),
        columns_(numbers(24, 2)),
        bias_(numbers(5, 3)),
        scale_(numbers(1, 4)),
        frozen_(numbers(2, 5)),
        mean_(numbers(3, 6)),
        matrix_gradient_(39),
        columns_gradient_(24),
        bias_gradient_(5),
        scale_gradient_(1),
        bias_name_(prefix + "fc.bias"),
        params(list(prefix)),
        grads(params) {
    grads.set(prefix + "fc.weight", matrix_gradient_.data());
    grads.set(prefix + "conv", columns_gradient_.data());
    grads.set(prefix + "scale", scale_gradient_.data());
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// The gradients of a step. The bias has none in steps 1 and 6.
  void differentiate(std::uint64_t step) {
    std::uint64_t seed = 100 + 10 * step;
    for (auto* gradient :
         {&matrix_gradient_, &columns_gradient_, &bias_gradient_, &scale_gradient_}) {
      fill(*gradient, seed++, 0.5);
    }
    if (step % 5 == 1) {
      grads.set(bias_name_, polyak::no_gradient);
    } else {
      grads.set(bias_name_, bias_gradient_.data());
    }
    fill(mean_, seed, 1);
    for (std::int64_t& count : seen_) ++count;
  }

  /// Moves the weights as training would.
  void wander(std::uint64_t step) {
    differentiate(step);
    add(matrix_, matrix_gradient_);
    add(columns_, columns_gradient_);
    add(bias_, bias_gradient_);
    add(scale_, scale_gradient_);
  }

  /// Puts a NaN into a gradient, until the next differentiate().
  void spoil() { matrix_gradient_[7] = static_cast<P>(std::numeric_limits<float>::quiet_NaN()); }

 private:
  static P rounded(double value) { return static_cast<P>(static_cast<float>(value)); }
  static void fill(std::vector<P>& list, std::uint64_t seed, double scale) {
    for (std::size_t k = 0; k < list.size(); ++k) list[k] = rounded(scale * number(k, seed));
  }
  static std::vector<P> numbers(std::size_t count, std::uint64_t seed) {
    std::vector<P> list(count);
    fill(list, seed, 1);
    return list;
  }
  static void add(std::vector<P>& to, const std::vector<P>& step) {
    for (std::size_t k = 0; k < to.size(); ++k) {
      to[k] = rounded(static_cast<double>(to[k]) - 0.25 * static_cast<double>(step[k]));
    }
  }
  polyak::Parameters<P> list(const std::string& prefix) {
    polyak::Parameters<P> tensors;
    tensors.add(prefix + "fc.weight", matrix_, {3, 13})
        .add(prefix + "conv", columns_, {2, 4, 3}, polyak::Role::average,
             polyak::Order::column_major)
        .add(bias_name_, bias_)
        .add(prefix + "scale", scale_.data(), {})
        .add(prefix + "none", empty_)
        .add(prefix + "frozen", frozen_, polyak::Role::ignore)
        .add(prefix + "bn.mean", mean_, polyak::Role::copy)
        .add(prefix + "bn.seen", seen_, polyak::Role::copy)
        .add(prefix + "tied.weight", matrix_, {3, 13});
    return tensors;
  }

  std::vector<P> matrix_, columns_, bias_, scale_, empty_, frozen_, mean_;
  std::vector<std::int64_t> seen_ = std::vector<std::int64_t>(2);
  std::vector<P> matrix_gradient_, columns_gradient_, bias_gradient_, scale_gradient_;
  std::string bias_name_;

 public:
  polyak::Parameters<P> params;
  polyak::Gradients<P> grads;
};

// A run has a name, which its files bear, and:
//   step(n)    computes step n = 0, 1, ...
//   parts(use) calls use(...) with the arguments of save() and load()

struct SgdRun {
  static constexpr const char* name = "sgd";
  Model<float> model{""};
  polyak::Sgd<float> usual{
      model.params, {.learning_rate = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1}};
  polyak::Sgd<float> nesterov{model.params,
                              {.learning_rate = 0.05, .momentum = 0.75, .nesterov = true}};
  polyak::Sgd<float> coupled{model.params, {.learning_rate = 0.05, .coupled_weight_decay = 0.1}};
  void step(std::uint64_t n) {
    model.differentiate(n);
    usual.at(0.1 / static_cast<double>(n + 1)).step(model.params, model.grads);
    nesterov.step(model.params, model.grads);
    coupled.step(model.params, model.grads);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, usual, nesterov, coupled);
  }
};

struct AdamRun {
  static constexpr const char* name = "adam";
  Model<float> model{""};
  polyak::AdamW<float> usual{model.params, {.learning_rate = 0.1}};
  polyak::AdamW<float> amsgrad{model.params,
                               {.learning_rate = 0.05, .beta2 = 0.5, .amsgrad = true}};
  polyak::AdamW<float> coupled{model.params,
                               {.learning_rate = 0.05,
                                .weight_decay = 0,
                                .coupled_weight_decay = 0.1,
                                .bias_correction = false,
                                .epsilon_before_correction = true}};
  polyak::AdamW<float> no_momentum{model.params, {.learning_rate = 0.05, .beta1 = 0}};
  polyak::Adam<float> adam{model.params, {.learning_rate = 0.05, .coupled_weight_decay = 0.01}};
  void step(std::uint64_t n) {
    model.differentiate(n);
    usual.at(0.1 / static_cast<double>(n + 1)).step(model.params, model.grads);
    amsgrad.step(model.params, model.grads);
    coupled.step(model.params, model.grads);
    no_momentum.step(model.params, model.grads);
    adam.step(model.params, model.grads);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, usual, amsgrad, coupled, no_momentum, adam);
  }
};

struct AdEMAMixRun {
  static constexpr const char* name = "ademamix";
  Model<Eigen::half> model{""};
  polyak::AdEMAMix<Eigen::half> usual{model.params, {.learning_rate = 0.1, .weight_decay = 0.1}};
  polyak::AdEMAMix<Eigen::half> scheduled{
      model.params, {.learning_rate = 0.05, .alpha_warmup = 5, .beta3_warmup = 7}};
  polyak::AdEMAMix<Eigen::half> no_fast{model.params, {.learning_rate = 0.05, .beta1 = 0}};
  void step(std::uint64_t n) {
    model.differentiate(n);
    usual.step(model.params, model.grads);
    scheduled.at(0.05 / static_cast<double>(n + 1)).step(model.params, model.grads);
    no_fast.step(model.params, model.grads);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, usual, scheduled, no_fast);
  }
};

struct ScheduleFreeRun {
  static constexpr const char* name = "schedule_free";
  Model<float> a{"a."}, b{"b."}, c{"c."};
  polyak::ScheduleFreeSgd<float> sgd{a.params,
                                     {.learning_rate = 0.5,
                                      .warmup_steps = 6,
                                      .weight_decay = 0.1,
                                      .r = 1,
                                      .average_weight = polyak::AverageWeight::learning_rate}};
  polyak::ScheduleFreeAdamW<float> usual{b.params,
                                         {.learning_rate = 0.1,
                                          .warmup_steps = 4,
                                          .weight_decay = 0.1,
                                          .decay_at_z = true,
                                          .bias_correction_in_lr = true}};
  polyak::ScheduleFreeAdamW<float> momentum{
      c.params, {.learning_rate = 0.1, .inner_momentum = 0.7, .weight_decay = 0.1}};
  void step(std::uint64_t n) {
    for (auto* model : {&a, &b, &c}) model->differentiate(n);
    sgd.step(a.params, a.grads);
    usual.step(b.params, b.grads);
    momentum.step(c.params, c.grads);
  }
  template <class Use>
  auto parts(Use use) {
    return use(a.params, sgd, b.params, usual, c.params, momentum);
  }
};

/// Averages of float, stored in every way.
struct AveragesRun {
  static constexpr const char* name = "averages";
  Model<float> model{""};
  polyak::Ema<float> plain{model.params, {.decay = 0.75, .update_every = 2}};
  polyak::Ema<float> kahan{model.params,
                           {.decay = 0.9,
                            .start = polyak::Start::first_update,
                            .accumulate = polyak::Accumulate::kahan}};
  polyak::Ema<float> wide{model.params,
                          {.decay = 0.9,
                           .start = polyak::Start::zero_debiased,
                           .accumulate = polyak::Accumulate::float64}};
  polyak::Ema<float, double> in_double{model.params, {.decay = 0.9}};
  polyak::Ema<float, Eigen::half> in_half{
      model.params, {.decay = 0.9, .accumulate = polyak::Accumulate::stochastic, .seed = 3}};
  polyak::Swa<float> swa{model.params, {.start = 3, .period = 2}};
  polyak::PowerEma<float> power{model.params, {.sigma_rel = 0.1, .batch_size = 32}};
  polyak::Average<float, polyak::TimmWeighting> timm{
      model.params, {.decay = 0.9, .update_after = 2, .warmup = true}};
  polyak::Tail<float> tail{model.params, {.start = 3}};
  polyak::SampleEma<float> samples{model.params, {.half_life = 64, .rampup = 0.5, .batch_size = 8}};
  void step(std::uint64_t n) {
    model.wander(n);
    plain.update(model.params);
    kahan.update(model.params);
    wide.update(model.params);
    in_double.update(model.params);
    in_half.update(model.params);
    swa.update(model.params);
    power.at(16 + static_cast<double>(n % 3)).update(model.params);
    timm.update(model.params);
    tail.update(model.params);
    samples.at(8 + static_cast<double>(n % 3)).update(model.params);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, plain, kahan, wide, in_double, in_half, swa, power, timm, tail,
               samples);
  }
};

/// Averages of 16-bit weights.
struct SixteenBitsRun {
  static constexpr const char* name = "sixteen_bits";
  using Half = Eigen::bfloat16;
  Model<Half> model{""};
  polyak::Ema<Half, Half> stochastic{
      model.params,
      {.decay = 0.9, .accumulate = polyak::Accumulate::stochastic, .seed = 0x123456789}};
  polyak::Ema<Half, Half> kahan{model.params,
                                {.decay = 0.9, .accumulate = polyak::Accumulate::kahan}};
  polyak::Ema<Half> in_float{model.params, {.decay = 0.9}};
  void step(std::uint64_t n) {
    model.wander(n);
    stochastic.update(model.params);
    kahan.update(model.params);
    in_float.update(model.params);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, stochastic, kahan, in_float);
  }
};

/// Averages that change the weights.
struct FedBackRun {
  static constexpr const char* name = "fed_back";
  Model<float> a{"a."}, b{"b."}, c{"c."};
  polyak::SwitchEma<float> switching{a.params,
                                     {.decay = 0.75,
                                      .unit = polyak::SwitchUnit::iterations,
                                      .interval = 3,
                                      .start = 1,
                                      .warmup = polyak::SwitchWarmup::linear,
                                      .warmup_iterations = 4}};
  polyak::SwitchEma<float> epochs{a.params, {.decay = 0.75}};
  polyak::HareTortoise<float> hare{
      b.params,
      {.decay = 0.75, .switch_every = 4, .blend = 0.25, .update_after = 2, .update_every = 2}};
  polyak::HareTortoise<float> copying{b.params, {.decay = 0.75, .switch_every = 3}};
  polyak::CottaTeacher<float> cotta{
      c.params,
      {.decay = 0.75, .restore_probability = 0.2, .restored = {"c.fc.weight"}, .restore_seed = 7}};
  void step(std::uint64_t n) {
    for (auto* model : {&a, &b, &c}) model->wander(n);
    if (n % 3 == 0) epochs.begin_epoch(a.params);
    switching.update(a.params);
    epochs.update(a.params);
    hare.update(b.params);
    copying.update(b.params);
    cotta.update(c.params);
  }
  template <class Use>
  auto parts(Use use) {
    return use(a.params, switching, epochs, b.params, hare, copying, c.params, cotta);
  }
};

/// Several averages in one, and averages that accept only some iterates.
struct WindowsRun {
  static constexpr const char* name = "windows";
  Model<float> model{""}, swapped{"swapped."};
  polyak::Lawa<float> lawa{model.params, {.checkpoints = 3}};
  polyak::Lawa<float> running{model.params, {.checkpoints = 2, .period = 2, .running_mean = true}};
  polyak::WindowAverage<float> window{model.params, {.horizon = 4, .interval = 2, .blocks = 1}};
  polyak::EmaBank<float, 3> bank{
      model.params, {0.75, 0.0, 0.9}, {.start = polyak::Start::first_update, .update_every = 2}};
  polyak::Aswa<float> aswa{model.params, {.filter = polyak::AswaFilter::mean_norm}};
  polyak::Aswa<float> reference{swapped.params, {.period = 2, .reference_swap = true}};
  void step(std::uint64_t n) {
    model.wander(n);
    swapped.wander(n);
    lawa.update(model.params);
    running.update(model.params);
    window.update(model.params);
    bank.update(model.params);
    aswa.update(model.params);
    reference.update(swapped.params);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, lawa, running, window, bank, aswa, swapped.params, reference);
  }
};

/// Lists of three types in one file.
struct TypesRun {
  static constexpr const char* name = "types";
  Model<float> single{"single."};
  Model<double> wide{"wide."};
  Model<Eigen::bfloat16> half{"half."};
  polyak::AdamW<float> single_adamw{single.params, {.learning_rate = 0.1}};
  polyak::AdamW<double> wide_adamw{wide.params, {.learning_rate = 0.1}};
  polyak::Ema<float> single_ema{single.params, {.decay = 0.75}};
  polyak::Ema<double> wide_ema{wide.params, {.decay = 0.75}};
  polyak::Ema<Eigen::bfloat16> half_ema{half.params, {.decay = 0.75}};
  void step(std::uint64_t n) {
    single.differentiate(n);
    wide.differentiate(n);
    half.wander(n);
    single_adamw.step(single.params, single.grads);
    wide_adamw.step(wide.params, wide.grads);
    single_ema.update(single.params);
    wide_ema.update(wide.params);
    half_ema.update(half.params);
  }
  template <class Use>
  auto parts(Use use) {
    return use(single.params, single_adamw, single_ema, wide.params, wide_adamw, wide_ema,
               half.params, half_ema);
  }
};

/// One pass for an optimizer and an average, and steps that are skipped.
struct FusedRun {
  static constexpr const char* name = "fused";
  Model<float> model{"gr\u00fc\u00dfe \"quoted\"/\\ "};
  polyak::AdamW<float> adamw{model.params,
                             {.learning_rate = 0.1, .nonfinite = polyak::Nonfinite::skip_step}};
  polyak::Ema<float> ema{model.params, {.decay = 0.75, .nonfinite = polyak::Nonfinite::skip_step}};
  void step(std::uint64_t n) {
    model.differentiate(n);
    if (n == 3 || n == 7) model.spoil();
    polyak::step(model.params, model.grads, adamw, ema);
  }
  template <class Use>
  auto parts(Use use) {
    return use(model.params, adamw, ema);
  }
};

/// Calls use.template operator()<Run>() for each run.
template <class Use>
void each_run(Use use) {
  use.template operator()<SgdRun>();
  use.template operator()<AdamRun>();
  use.template operator()<AdEMAMixRun>();
  use.template operator()<ScheduleFreeRun>();
  use.template operator()<AveragesRun>();
  use.template operator()<SixteenBitsRun>();
  use.template operator()<FedBackRun>();
  use.template operator()<WindowsRun>();
  use.template operator()<TypesRun>();
  use.template operator()<FusedRun>();
}

template <class Run>
void save(Run& run, const std::filesystem::path& path, const polyak::SaveOptions& options) {
  run.parts([&](const auto&... parts) { polyak::save(path, options, parts...); });
}

/// Snapshots of three averages of a small model.
struct StoreRun {
  static constexpr const char* name = "snapshots";
  static constexpr std::uint64_t steps = 60, every = 12;
  Model<float> model{""};
  polyak::PowerEma<float> sharp{model.params, {.sigma_rel = 0.05}};
  polyak::PowerEma<float> smooth{model.params, {.sigma_rel = 0.1}};
  polyak::Ema<float> ema{model.params, {.decay = 0.9}};

  void step(std::uint64_t n) {
    model.wander(n);
    sharp.update(model.params);
    smooth.update(model.params);
    ema.update(model.params);
  }
};

}  // namespace earlier
