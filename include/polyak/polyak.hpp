// SPDX-License-Identifier: Apache-2.0
/// @file
/// Everything that needs only Eigen and the standard library, except headers that would slow down
/// the compilation of each file: core/any_method.hpp, core/state_access.hpp, core/step_metrics.hpp;
/// optim/by_name.hpp and average/by_name.hpp, which compile all methods; and for use after training
/// merge/merge_as_decay.hpp, average/analysis/profile_target.hpp and profile_fit.hpp.
#pragma once

#include <polyak/average/analysis/weight_statistics.hpp>
#include <polyak/average/aswa.hpp>
#include <polyak/average/batch_norm.hpp>
#include <polyak/average/cotta.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/average/engine/swap.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/posthoc.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/sample_ema.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/schedules/repeated_weighting.hpp>
#include <polyak/average/schedules/stream_weighting.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/average/tail.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/compiled.hpp>
#include <polyak/core/clip.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/executors/openmp.hpp>
#include <polyak/core/executors/thread_pool.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/require_finite.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/merge/linear.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/learning_rate.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/one_cycle.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>
#include <polyak/optim/swa_learning_rate.hpp>
#include <polyak/version.hpp>
