// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "racer.hpp"

namespace polyak_bench {

/// The update that a peer performs: an optimizer and exponential averages of its result.
enum class PeerMethod { none, adamw, ademamix, schedule_free_adamw };

struct PeerOptions {
  PeerMethod method = PeerMethod::none;
  std::size_t averages = 0;
  double decay = 0.999;
};

/// The hyperparameters of all optimizers.
inline constexpr double peer_beta1 = 0.9, peer_beta2 = 0.999, peer_beta3 = 0.9999, peer_alpha = 5,
                        peer_epsilon = 1e-8, peer_weight_decay = 0.01;

/// Whole-array Eigen statements.
[[nodiscard]] std::unique_ptr<Racer> eigen_peer(const Setting& setting, const PeerOptions& options);

/// Loops over std::vector; AdamW or none.
[[nodiscard]] std::unique_ptr<Racer> plain_peer(const Setting& setting, const PeerOptions& options);

#ifdef POLYAK_BENCH_TORCH

/// LibTorch; AdamW or none. `foreach`: the averages of all tensors in two calls, not one by one.
[[nodiscard]] std::unique_ptr<Racer> torch_peer(const Setting& setting, const PeerOptions& options,
                                                bool foreach);
[[nodiscard]] std::string torch_version();

/// Call it before anything is allocated: it makes the heap keep freed memory. Without it LibTorch
/// spends most of its time on the page faults of its temporaries.
void prepare_torch();

#endif

}  // namespace polyak_bench
