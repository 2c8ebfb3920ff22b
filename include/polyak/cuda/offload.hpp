// SPDX-License-Identifier: Apache-2.0
/// @file
/// OffloadedAverage: an average on the host of parameters on a device. It uses no memory of the
/// device.
///
///   step t:   device  ... optimizer | forward, backward      | optimizer ...
///             copies                | weights -> buffer t % 2 |
///             host    average <- buffer (t-1) % 2            | average <- buffer t % 2 ...
///
/// It uses the host's loops and no kernels: for files of the host's compiler, with the CUDA
/// Toolkit's headers and runtime.
///
/// Above 300 lines: one class, whose thread, buffers and events are one protocol.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/sweep.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/cuda/error.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/transfer.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {

/// What update() does while both buffers are still in use.
enum class WhenBusy : std::uint8_t {
  wait,  ///< waits: no update is lost, and the average has the same bits as a synchronous one
  drop,  ///< leaves the update out, and counts it in dropped()
};
[[nodiscard]] constexpr std::string_view name_of(WhenBusy value) {
  return value == WhenBusy::wait ? "wait" : "drop";
}

/// An average `A` on the host, such as `Ema<float>`, of a list `Parameters<Device<float>>`. A
/// separate stream copies the weights to two pinned buffers, while the device continues with work
/// that only reads them. The library's next write, by a step or a guard, waits for the copy. (A
/// program that writes weights itself must call await_copy().) A separate thread updates the
/// average. Call all functions from one thread at a time, like those of the executor.
template <class A>
class OffloadedAverage {
  using T = typename A::Parameter;

 public:
  /// `options` are the options of A. The average begins from the current parameters, like A. Throws
  /// as A, std::logic_error while an average is swapped in, cuda::error.
  template <class Options>
  OffloadedAverage(const Executor& executor, const Parameters<T>& params, const Options& options,
                   WhenBusy when_busy = WhenBusy::wait)
      : executor_(executor), layout_(params.layout()), when_busy_(when_busy) {
    require_here(params);
    detail::check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking),
                  "cudaStreamCreateWithFlags");
    try {
      begin(params, options);
    } catch (...) {
      static_cast<void>(cudaStreamDestroy(copies_));
      throw;
    }
  }
  OffloadedAverage(const OffloadedAverage&) = delete;
  OffloadedAverage& operator=(const OffloadedAverage&) = delete;
  ~OffloadedAverage() {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      ends_ = true;
    }
    changed_.notify_all();
    worker_.join();
    static_cast<void>(cudaStreamSynchronize(copies_));
    executor_.space()->forget_reader(copied_[0].get());
    executor_.space()->forget_reader(copied_[1].get());
    static_cast<void>(cudaStreamDestroy(copies_));
  }

  /// Updates the average with the weights, as they are after all current work of the executor's
  /// stream. Returns false if the update was dropped. Throws the error of an earlier update in its
  /// thread.
  bool update(const Parameters<T>& params) {
    require_here(params);
    polyak::detail::require_same(params.layout(), layout_,
                                 "the parameters and those of the average");
    const std::size_t buffer = next_ % 2;
    {
      std::unique_lock<std::mutex> guard(lock_);
      rethrow();
      if (busy_[buffer] && when_busy_ == WhenBusy::drop) {
        ++dropped_;
        return false;
      }
      changed_.wait(guard, [&] { return !busy_[buffer]; });
      rethrow();
    }
    const detail::OnDevice here(executor_.device());
    written_->record(executor_.stream());
    detail::check(cudaStreamWaitEvent(copies_, written_->get(), 0), "cudaStreamWaitEvent");
    copy(params, buffer);
    copied_[buffer]->record(copies_);
    executor_.space()->add_reader(copied_[buffer].get());
    {
      const std::lock_guard<std::mutex> guard(lock_);
      busy_[buffer] = true;
      ++next_;
    }
    changed_.notify_all();
    return true;
  }

  /// Makes the executor's stream wait until the newest weights are copied. Call it before writing
  /// them by other means than step().
  void await_copy() { executor_.space()->await_readers(); }

  /// Waits for all updates, and returns the average, to view, copy or save it. The program may use
  /// it until the next update(). Throws the error of an update in its thread.
  [[nodiscard]] A& average() {
    flush();
    return *average_;
  }
  /// Waits for all updates.
  void flush() {
    std::unique_lock<std::mutex> guard(lock_);
    changed_.wait(guard, [&] { return !busy_[0] && !busy_[1]; });
    rethrow();
  }
  /// The list on the host from which the average is updated: for save(), load() and copy_to(). Its
  /// memory holds the weights of an update; tensors with Role::ignore or Role::frozen are as they
  /// were at construction.
  [[nodiscard]] const polyak::Parameters<T>& host_parameters() const { return lists_[0]; }
  /// Number of updates that WhenBusy::drop left out.
  [[nodiscard]] std::int64_t dropped() const { return dropped_; }

  /// Copies the average into weights on the device: `target` may be the model's own list or
  /// another.
  void copy_to(const Parameters<T>& target) {
    polyak::detail::require_same(target.layout(), layout_,
                                 "the target and the parameters of the average");
    require_here(target);
    A& done = average();
    polyak::Parameters<T> host = list_at(buffers_[next_ % 2]->data());
    done.copy_to(host);  // no buffer is in use now
    for (std::size_t k = 0; k < host.size(); ++k) {
      if (!is_copied(host[k].info().role)) continue;
      polyak::detail::write_bytes(target.layout()->space.get(), target[k].raw(), host[k].raw(),
                                  host[k].bytes());
    }
  }

 private:
  void require_here(const Parameters<T>& params) const {
    if (params.layout()->space.get() != executor_.space().get()) {
      polyak::detail::refuse_value(
          "polyak: the parameters and the executor are in different memory");
    }
    if (params.swapped()) {
      polyak::detail::refuse_order(
          "polyak: an update of an OffloadedAverage while another is swapped in");
    }
  }

  template <class Options>
  void begin(const Parameters<T>& params, const Options& options) {
    std::size_t bytes = 1, bytes_at_rest = 1;
    for (std::size_t k = 0; k < params.size(); ++k) {
      std::size_t& sum = is_copied(params[k].info().role) ? bytes : bytes_at_rest;
      sum += (params[k].bytes() + 63) / 64 * 64;
    }
    at_rest_ = std::make_unique<detail::Pinned>(bytes_at_rest);
    for (std::size_t k = 0; k < 2; ++k) {
      buffers_[k] = std::make_unique<detail::Pinned>(bytes);
      copied_[k] = std::make_unique<detail::Event>();
      lists_[k] = list_at(buffers_[k]->data());
    }
    written_ = std::make_unique<detail::Event>();
    written_->record(executor_.stream());
    detail::check(cudaStreamWaitEvent(copies_, written_->get(), 0), "cudaStreamWaitEvent");
    copy(params, 0);
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!is_copied(params[k].info().role)) copy_tensor(params, k, 0);
    }
    detail::check(cudaStreamSynchronize(copies_), "cudaStreamSynchronize");
    average_ = std::make_unique<A>(lists_[0], options);
    worker_ = std::thread([this] { work(); });
  }

  [[nodiscard]] static bool is_copied(Role role) {
    return role == Role::average || role == Role::copy;
  }

  /// A list of the same tensors in a buffer.
  [[nodiscard]] polyak::Parameters<T> list_at(std::byte* place) const {
    polyak::Parameters<T> list;
    std::byte* other = at_rest_->data();
    for (const TensorInfo& info : layout_->tensors) {
      std::byte*& next = is_copied(info.role) ? place : other;
      add(list, info, next);
      next += (info.size * polyak::detail::bytes_of(info.dtype) + 63) / 64 * 64;
    }
    return list;
  }
  static void add(polyak::Parameters<T>& list, const TensorInfo& info, std::byte* place) {
    const auto as = [&]<class E>(E*) {
      list.add(info.name, reinterpret_cast<E*>(place), info.shape, info.role, info.order);
    };
    switch (info.dtype) {
      case DType::boolean:
        return as(static_cast<bool*>(nullptr));
      case DType::int8:
        return as(static_cast<std::int8_t*>(nullptr));
      case DType::uint8:
        return as(static_cast<std::uint8_t*>(nullptr));
      case DType::int16:
        return as(static_cast<std::int16_t*>(nullptr));
      case DType::uint16:
        return as(static_cast<std::uint16_t*>(nullptr));
      case DType::int32:
        return as(static_cast<std::int32_t*>(nullptr));
      case DType::uint32:
        return as(static_cast<std::uint32_t*>(nullptr));
      case DType::int64:
        return as(static_cast<std::int64_t*>(nullptr));
      case DType::uint64:
        return as(static_cast<std::uint64_t*>(nullptr));
      case DType::float16:
        return as(static_cast<Eigen::half*>(nullptr));
      case DType::bfloat16:
        return as(static_cast<Eigen::bfloat16*>(nullptr));
      case DType::float32:
        return as(static_cast<float*>(nullptr));
      case DType::float64:
        return as(static_cast<double*>(nullptr));
    }
  }

  /// Copies the tensors that the average reads.
  void copy(const Parameters<T>& params, std::size_t buffer) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (is_copied(params[k].info().role)) copy_tensor(params, k, buffer);
    }
  }
  void copy_tensor(const Parameters<T>& params, std::size_t k, std::size_t buffer) {
    if (params[k].bytes() == 0) return;
    detail::check(cudaMemcpyAsync(lists_[buffer][k].raw(), params[k].raw(), params[k].bytes(),
                                  cudaMemcpyDeviceToHost, copies_),
                  "cudaMemcpyAsync");
  }

  /// The thread that updates the average, in the order of the updates.
  void work() {
    for (std::size_t done = 0;; ++done) {
      const std::size_t buffer = done % 2;
      {
        std::unique_lock<std::mutex> guard(lock_);
        changed_.wait(guard, [&] { return busy_[buffer] || ends_; });
        if (!busy_[buffer]) return;
      }
      std::exception_ptr failure;
      try {
        copied_[buffer]->wait();
        average_->update(lists_[buffer]);
      } catch (...) {
        failure = std::current_exception();
      }
      {
        const std::lock_guard<std::mutex> guard(lock_);
        if (failure && !failure_) failure_ = failure;
        busy_[buffer] = false;
      }
      changed_.notify_all();
    }
  }

  void rethrow() {
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  Executor executor_;
  std::shared_ptr<const Layout> layout_;
  WhenBusy when_busy_;
  cudaStream_t copies_ = nullptr;
  std::unique_ptr<detail::Pinned> buffers_[2];
  std::unique_ptr<detail::Pinned> at_rest_;  // tensors that the average does not read
  polyak::Parameters<T> lists_[2];
  std::unique_ptr<detail::Event> copied_[2], written_;
  std::unique_ptr<A> average_;
  std::mutex lock_;
  std::condition_variable changed_;
  bool busy_[2] = {false, false};
  bool ends_ = false;
  std::size_t next_ = 0;
  std::int64_t dropped_ = 0;
  std::exception_ptr failure_;
  std::thread worker_;
};

}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
