// SPDX-License-Identifier: Apache-2.0
/// @file
/// Steps that a device skips: the host reads later that they were skipped, and then turns its
/// clocks back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/cuda/executor.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

/// Records the values to restore after a skipped step: the scalars and counters of a method, not
/// its slots.
class ClockWriter final : public StateVisitor {
 public:
  explicit ClockWriter(std::vector<std::byte>& out) : StateVisitor(false), out_(out) {}
  void counters(std::string_view, std::span<const std::int64_t> values) override {
    add(values.data(), values.size_bytes());
  }
  void buffers(const Layout&, const std::byte*) override {}
  void slots(const ConstSlots&) override {}

 private:
  void add_scalar(std::string_view, const void* value, const StateScalarType& type) override {
    add(value, type.bytes);
  }
  void add(const void* data, std::size_t bytes) {
    const auto* const first = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), first, first + bytes);
  }
  std::vector<std::byte>& out_;
};
/// Restores the values that a step changed. Other values, such as a learning rate, may have been
/// set since then, and are kept.
class ClockReader final : public StateEditor {
 public:
  ClockReader(const std::byte* before, const std::byte* after) : before_(before), after_(after) {}
  void counters(std::string_view, std::span<std::int64_t> values) override {
    for (std::int64_t& value : values) restore(&value, sizeof value);
  }
  void buffers(const Layout&, std::byte*) override {}
  void slots(polyak::detail::SlotMemory&) override {}

 private:
  void add_scalar(std::string_view, void* value, const StateScalarType& type) override {
    restore(value, type.bytes);
  }
  void restore(void* value, std::size_t bytes) {
    if (std::memcmp(before_, after_, bytes) != 0) std::memcpy(value, before_, bytes);
    before_ += bytes;
    after_ += bytes;
  }
  const std::byte* before_;
  const std::byte* after_;
};
template <class M>
void keep_clocks(const M& method, std::vector<std::byte>& to) {
  to.clear();
  ClockWriter writer(to);
  polyak::detail::visit_state(method, writer);
}
template <class M>
void restore_clocks(M& method, const std::vector<std::byte>& before,
                    const std::vector<std::byte>& after) {
  ClockReader reader(before.data(), after.data());
  polyak::detail::visit_state(method, reader);
}

/// Waits for the marks of the newest step, and reads them.
inline void await_report(DeviceSpace& space) {
  const bool any = std::any_of(space.waiting.begin(), space.waiting.end(),
                               [](const Waiting& one) { return !one.resolved; });
  if (!any) return;
  space.report_event().wait();
  const volatile unsigned* const marks = space.reported();
  for (Waiting& one : space.waiting) {
    if (one.resolved) continue;
    one.resolved = true;
    for (std::size_t k = 0; k < DeviceSpace::mark_count; ++k) {
      one.skipped = one.skipped || (one.marks[k] && marks[k] != 0);
    }
  }
}

/// The functions of a method that undo a step, independent of its type.
struct ClockHooks {
  const std::shared_ptr<polyak::detail::Block>& (*block)(const void*);
  void (*keep)(const void*, std::vector<std::byte>& to);
  void (*restore)(void*, const std::vector<std::byte>& before, const std::vector<std::byte>& after);
  void (*skip)(void*);

  template <class M>
  static constexpr ClockHooks of() {
    return {[](const void* m) -> const std::shared_ptr<polyak::detail::Block>& {
              return static_cast<const M*>(m)->slots().block();
            },
            [](const void* m, std::vector<std::byte>& to) {
              keep_clocks(*static_cast<const M*>(m), to);
            },
            [](void* m, const std::vector<std::byte>& before, const std::vector<std::byte>& after) {
              restore_clocks(*static_cast<M*>(m), before, after);
            },
            [](void* m) { static_cast<M*>(m)->skip(); }};
  }
};

/// Undoes the step of a method if it was skipped. Returns whether it was.
inline bool settle_one(DeviceSpace& space, void* method, const ClockHooks& hooks) {
  bool skipped = false;
  const void* const block = hooks.block(method).get();
  for (std::size_t k = 0; k < space.waiting.size();) {
    Waiting& one = space.waiting[k];
    if (one.address != block && !one.method.expired()) {
      ++k;
      continue;
    }
    if (one.address == block && !one.method.expired()) {
      await_report(space);
      if (one.skipped) {
        hooks.restore(method, one.before, one.after);
        if (one.counts) hooks.skip(method);
        skipped = true;
      }
    }
    std::swap(one, space.waiting.back());
    space.waiting.pop_back();
  }
  return skipped;
}

}  // namespace detail

/// Waits until the device has reported whether the newest steps of these methods were skipped, and
/// turns back the clocks of skipped ones. step() and update() do so for their methods. For methods
/// with Nonfinite::skip_step, call it before you save them or read count() or skipped(). Returns
/// whether a step was skipped.
template <class... M>
bool settle(const Executor& executor, M&... methods) {
  bool skipped = false;
  ((skipped =
        detail::settle_one(*executor.space(), &methods, detail::ClockHooks::of<M>()) || skipped),
   ...);
  return skipped;
}

}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
