// SPDX-License-Identifier: Apache-2.0
/// @file
/// A model on the host and the same on a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/cuda.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "model.hpp"
#if defined(__CUDACC__)
#include "scalar_sweep.hpp"
#endif

namespace twin {

template <class P>
using Device = polyak::cuda::Device<P>;

/// The tensors of a list of the host, each in a buffer of its own, `lead` numbers after its
/// beginning, and to the byte.
template <class P>
class OnDevice {
 public:
  OnDevice(const polyak::cuda::Executor& executor, const polyak::Parameters<P>& host,
           std::size_t lead = 0, std::size_t gradient_lead = 0)
      : params(executor), gradients((add(executor, host, lead, gradient_lead), params)) {
    take_weights(host);
  }

  void take_weights(const polyak::Parameters<P>& host) { polyak::cuda::copy_weights(host, params); }

  /// The gradients and buffers of the host's model.
  void take_gradients(const polyak::Parameters<P>& host, const polyak::Gradients<P>& from) {
    auto* const space = params.layout()->space.get();
    for (std::size_t k = 0; k < host.size(); ++k) {
      const auto& info = host[k].info();
      if (info.role == polyak::Role::copy) {
        polyak::detail::write_bytes(space, params[k].raw(), host[k].raw(), host[k].bytes());
      } else if (!polyak::detail::is_trained(info.role)) {
        continue;
      } else if (from[k] == nullptr) {
        gradients.set(info.name, polyak::no_gradient);
      } else {
        P* const place = gradient_memory_[k]->data() + gradient_lead_;
        polyak::detail::write_bytes(space, place, from[k], host[k].bytes());
        gradients.set(info.name, place);
      }
    }
  }

  /// The bits of one tensor.
  [[nodiscard]] std::vector<std::byte> tensor_bytes(std::size_t k) const {
    std::vector<std::byte> bytes(params[k].bytes());
    polyak::detail::read_bytes(params.layout()->space.get(), bytes.data(), params[k].raw(),
                               bytes.size());
    return bytes;
  }

  polyak::cuda::Parameters<P> params;

 private:
  void add(const polyak::cuda::Executor& executor, const polyak::Parameters<P>& host,
           std::size_t lead, std::size_t gradient_lead) {
    gradient_lead_ = gradient_lead;
    for (std::size_t k = 0; k < host.size(); ++k) {
      const polyak::TensorInfo& info = host[k].info();
      if (info.dtype == polyak::DType::int64) {
        counters_.push_back(
            std::make_unique<polyak::cuda::Buffer<std::int64_t>>(executor, info.size));
        params.add(info.name, counters_.back()->data(), info.shape, info.role, info.order);
        gradient_memory_.push_back(nullptr);
        continue;
      }
      memory_.push_back(std::make_unique<polyak::cuda::Buffer<P>>(executor, lead + info.size));
      params.add(info.name, memory_.back()->data() + lead, info.shape, info.role, info.order);
      gradient_memory_.push_back(
          std::make_unique<polyak::cuda::Buffer<P>>(executor, gradient_lead + info.size));
    }
  }

  std::vector<std::unique_ptr<polyak::cuda::Buffer<P>>> memory_, gradient_memory_;
  std::vector<std::unique_ptr<polyak::cuda::Buffer<std::int64_t>>> counters_;
  std::size_t gradient_lead_ = 0;

 public:
  polyak::cuda::Gradients<P> gradients;
};

/// Whether the call throws something with these words.
template <class Call>
[[nodiscard]] bool refuses(Call call, const std::string& words) {
  try {
    call();
  } catch (const std::exception& error) {
    UNSCOPED_INFO(error.what());
    return std::string(error.what()).find(words) != std::string::npos;
  }
  return false;
}

/// Numbers of type S that differ by more than `ulps` steps of S; NaNs are equal.
template <class S>
[[nodiscard]] std::size_t differing(const std::vector<std::byte>& a,
                                    const std::vector<std::byte>& b, std::int64_t ulps) {
  using Word = bits::word_t<S>;
  const auto ordered = [](Word word) {
    constexpr auto sign = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));
    const auto magnitude = static_cast<std::int64_t>(word & static_cast<Word>(~sign));
    return (word & sign) != 0 ? -magnitude : magnitude;
  };
  if (a.size() != b.size()) return a.size() + b.size() + 1;
  std::size_t count = 0;
  for (std::size_t at = 0; at + sizeof(Word) <= a.size(); at += sizeof(Word)) {
    Word x, y;
    std::memcpy(&x, a.data() + at, sizeof x);
    std::memcpy(&y, b.data() + at, sizeof y);
    if (bits::same(bits::number<S>(x), bits::number<S>(y))) continue;
    const std::int64_t distance = ordered(x) - ordered(y);
    if (distance > ulps || distance < -ulps) ++count;
  }
  return count;
}

/// Host and device agree to the last bit where the host has FMA: both round each operation as IEEE
/// says, and the laws say which are fused. A real device gets a bound, in ULPs after all steps.
#if defined(__CUDACC__)
inline constexpr std::int64_t ulps = 2;
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
inline constexpr std::int64_t ulps = 0;
#else
#error "compile these tests for a processor with FMA"
#endif

template <class M>
void check_state(M& host, const std::vector<std::byte>& device) {
  const auto expected = polyak::state_bytes(host);
  if constexpr (ulps == 0) {
    std::size_t first = 0;  // where they differ
    while (first < expected.size() && first < device.size() && expected[first] == device[first])
      ++first;
    CHECK(first == expected.size());
    CHECK(device.size() == expected.size());
  } else {
    // Clocks and slots of one type: the slots begin where the last of them do.
    CHECK(expected.size() == device.size());
    const std::size_t slots = [&] {
      std::size_t bytes = 0;
      for (std::size_t k = 0; k < host.slots().layout()->tensors.size(); ++k) {
        for (std::size_t slot = 0; slot < host.slots().count(); ++slot) {
          bytes += host.slots().bytes(slot, k);
        }
      }
      return bytes;
    }();
    const auto tail = [&](const std::vector<std::byte>& all) {
      return std::vector<std::byte>(all.end() - static_cast<std::ptrdiff_t>(slots), all.end());
    };
    const auto head = [&](const std::vector<std::byte>& all) {
      return std::vector<std::byte>(all.begin(), all.end() - static_cast<std::ptrdiff_t>(slots));
    };
    CHECK(head(expected) == head(device));
    CHECK(differing<typename M::State>(tail(expected), tail(device), ulps) == 0);
  }
}

/// Runs the methods that `make(params)` gives on both, and compares after every step.
template <class P, class Make>
void check(const std::string& name, Make make, std::uint64_t steps = 12,
           std::vector<std::size_t> sizes = {5, 70, 0, 33, 4200}, std::size_t lead = 0,
           std::size_t gradient_lead = 0) {
  const polyak::cuda::Executor executor;
  Model<P> model(std::move(sizes), true);
  OnDevice<P> device(executor, model.params, lead, gradient_lead);
  auto here = make(model.params);
  auto there = make(device.params);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const std::set<std::size_t> without =
        step % 5 == 1 ? std::set<std::size_t>{1, 3} : std::set<std::size_t>{};
    INFO(name << ", step " << step << ", lead " << lead << " and " << gradient_lead);
    model.differentiate(step, without);
    device.take_gradients(model.params, model.gradients);
    const bool complete = std::apply(
        [&](auto&... m) {
          if constexpr ((std::remove_reference_t<decltype(m)>::trains || ...)) {
            return polyak::step(model.params, model.gradients, m...);
          } else {
            model.wander(step);
            device.take_weights(model.params);
            return polyak::update(model.params, m...);
          }
        },
        here);
    const bool complete_there = std::apply(
        [&](auto&... m) {
          if constexpr ((std::remove_reference_t<decltype(m)>::trains || ...)) {
            return polyak::step(executor, device.params, device.gradients, m...);
          } else {
            return polyak::update(executor, device.params, m...);
          }
        },
        there);
    CHECK(complete == complete_there);
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      if (model.params[k].info().dtype == polyak::DType::int64) {
        const auto* const raw = static_cast<const std::byte*>(model.params[k].raw());
        CHECK(device.tensor_bytes(k) == std::vector<std::byte>(raw, raw + model.params[k].bytes()));
      } else {
        CHECK(differing<P>(model.tensor_bytes(k), device.tensor_bytes(k), ulps) == 0);
      }
    }
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (check_state(std::get<I>(here), polyak::state_bytes(std::get<I>(there))), ...);
    }
    (std::make_index_sequence<std::tuple_size_v<decltype(here)>>{});
  }
}

}  // namespace twin
