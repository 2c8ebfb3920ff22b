// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>

#include "corpus.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "settings.hpp"

namespace char_lm {

inline constexpr int run_count = 4;

/// Says with which settings the runs train.
void print_method_settings(std::ostream& out, const Settings& settings);

/// The four runs; each starts from the same weights, sees the same batches and adds its results to
/// the report.
void run_adamw_cosine(const Corpus&, const Settings&, Progress&, Report&);
void run_adamw_constant(const Corpus&, const Settings&, Progress&, Report&);
void run_ademamix(const Corpus&, const Settings&, Progress&, Report&);
void run_schedule_free(const Corpus&, const Settings&, Progress&, Report&);

}  // namespace char_lm
