// SPDX-License-Identifier: Apache-2.0
/// @file
/// RepeatedWeighting: a weighting on another clock.
///
///   d_t = d_W(s) ... d_W(s + repeats - 1)      s = (t - 1) repeats + 1: the first call of W in
///   call t c_t = 1 - d_t
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Any weighting on another clock: each call counts as `repeats` calls of `weighting` with the same
/// weights. A schedule for one batch size then fits batches that are `repeats` times as large ("How
/// to Scale Your EMA", arXiv 2307.13813), or counts samples. Costs O(repeats) gains per call.
template <class W>
struct RepeatedWeighting {
  static_assert(
      !requires(W & w) { w.advance(std::int64_t{1}); },
      "polyak: a weighting with a clock of its own cannot be repeated");
  static constexpr std::string_view type_name = "repeated";
  W weighting;
  std::int64_t repeats = 1;  ///< in [1, 1e6]

  [[nodiscard]] bool weighs_initial() const requires requires(const W& w) { w.weighs_initial(); }
  { return weighting.weighs_initial(); }
  /// The repeated weighting counts up to 2^53, or to its own last call.
  [[nodiscard]] std::int64_t last_call() const {
    std::int64_t last = std::int64_t{1} << 53;
    if constexpr (requires(const W& w) { w.last_call(); }) last = weighting.last_call();
    return last / repeats;
  }
  [[nodiscard]] double gain(std::int64_t t) const {
    double all = 0;
    for (std::int64_t s = first(t); s <= t * repeats; ++s) {
      const double one = weighting.gain(s);
      all = one == 1 ? 1 : all * weighting.complement(s) + one;
    }
    return std::fmin(all, 1);
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    double all = 1;
    for (std::int64_t s = first(t); s <= t * repeats; ++s) all *= weighting.complement(s);
    return all;
  }

 private:
  [[nodiscard]] std::int64_t first(std::int64_t t) const { return (t - 1) * repeats + 1; }
};
namespace detail {
template <class W>
inline constexpr bool is_repeated = false;
template <class W>
inline constexpr bool is_repeated<RepeatedWeighting<W>> = true;
/// The weighting in the record of a repeated one: its type, and that of one which it repeats.
template <class W>
[[nodiscard]] std::string weighting_label(const W&) {
  if constexpr (requires { W::type_name; }) return std::string(W::type_name);
  return {};
}
template <class W>
[[nodiscard]] std::string weighting_label(const RepeatedWeighting<W>& w) {
  return "repeated " + text(w.repeats) + " " + weighting_label(w.weighting);
}
/// The label lacks the name of a type without `type_name`, and must stay what it is in older files.
template <class W>
struct WeightingName<RepeatedWeighting<W>> {
  static constexpr bool listed = is_repeated<W> ? WeightingName<W>::listed : !requires {
    W::type_name;
  };
  static constexpr std::string_view option = "repeated_weighting";
  [[nodiscard]] static constexpr std::string_view name() { return WeightingName<W>::name(); }
};
}  // namespace detail
template <class W, class Fields>
void fields(RepeatedWeighting<W>& w, Fields& field) {
  constexpr Rule<std::int64_t> up_to_a_million{
      [](std::int64_t v) { return v >= 1 && v <= 1'000'000; },
      "must lie in [1, 1e6]",
      {0, -1, 1'000'001}};
  if constexpr (HasFields<W>) field.inside(w.weighting);
  field("repeats", w.repeats, up_to_a_million);
  field.label("weighting", detail::weighting_label(w.weighting));
}

}  // namespace POLYAK_V0
}  // namespace polyak
