// SPDX-License-Identifier: Apache-2.0
/// @file
/// The library as the replays use it: on the host, or, with POLYAK_GOLDEN_DEVICE, on a GPU.
#pragma once

#if defined(POLYAK_GOLDEN_DEVICE)

#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/sample_ema.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/learning_rate.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

namespace golden {

/// The parameter type of a method that is replayed with numbers of type T.
template <class T>
using At = polyak::cuda::Device<T>;

inline const polyak::cuda::Executor& executor() {
  static const polyak::cuda::Executor one;
  return one;
}

}  // namespace golden

#else

#include <polyak/polyak.hpp>

namespace golden {
template <class T>
using At = T;
}  // namespace golden

#endif
