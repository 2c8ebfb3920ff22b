// SPDX-License-Identifier: Apache-2.0
/// @file
/// The interface to a GPU: an executor on the user's stream, memory, and parameter lists in it.
///
/// Above 300 lines: one class owns memory, streams and events of a device.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/cuda/device.hpp>
#include <polyak/cuda/error.hpp>

struct __half;
struct __nv_bfloat16;

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
template <>
struct Registered<::__half> {
  using type = Eigen::half;
};
template <>
struct Registered<::__nv_bfloat16> {
  using type = Eigen::bfloat16;
};
}  // namespace detail

namespace cuda {

class Executor;

namespace detail {

/// Makes a device current while the object lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = device != before_;
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

/// Pinned memory of the host, which a device can copy from and to asynchronously.
class Pinned {
 public:
  explicit Pinned(std::size_t bytes) : bytes_(bytes) {
    check(cudaHostAlloc(&memory_, bytes, cudaHostAllocMapped | cudaHostAllocPortable),
          "cudaHostAlloc");
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { static_cast<void>(cudaFreeHost(memory_)); }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(memory_); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void* memory_ = nullptr;
  std::size_t bytes_;
};

class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  void wait() const { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  [[nodiscard]] cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A table of a sweep, on the device: chunks, rows, addresses of gradients. The words of a row are
/// x, size, tensor, offsets.
struct DeviceTable {
  /// The laws of the rows for one kernel, if they differ.
  struct Laws {
    const void* kernel;
    std::vector<std::uint64_t> words;  ///< as the device has them
    std::byte* memory = nullptr;
    std::size_t capacity = 0;  ///< in words
  };
  std::vector<std::uint64_t> rows;
  std::size_t row_words = 0, chunk = 0, chunks = 0;
  std::vector<std::uint64_t> gradients;  ///< as the device has them; for streams, all their words
  std::vector<Laws> laws;
  std::byte* memory = nullptr;
  std::size_t rows_at = 0, gradients_at = 0;  ///< bytes
  std::uint64_t last_use = 0;
  bool captured = false;  ///< a graph reads it, and may be replayed at any time
};

/// A method that waits for the report of a step's marks; see skipped_steps.hpp.
struct Waiting {
  std::weak_ptr<polyak::detail::Block> method;  ///< its identity, because methods can move
  const void* address = nullptr;
  std::vector<std::byte> before, after;  ///< clocks of the method
  bool marks[3] = {};                    ///< which marks mean "skipped"
  bool counts = false;                   ///< its policy counts skipped steps
  bool resolved = false;                 ///< the report has arrived
  bool skipped = false;
};

/// The memory of a device; operations are ordered by a stream. For one thread at a time.
class DeviceSpace final : public MemorySpace {
 public:
  DeviceSpace(cudaStream_t stream, int device) : stream_(stream), device_(device) {}
  ~DeviceSpace() override {
    for (const auto& table : tables_) release(*table);
    static_cast<void>(cudaFree(exchange_));
    static_cast<void>(cudaFree(marks_));
  }

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] int device() const { return device_; }

  [[nodiscard]] std::byte* allocate(std::size_t bytes) override {
    const OnDevice here(device_);
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    if (const cudaError_t code = cudaMemsetAsync(memory, 0, bytes, stream_); code != cudaSuccess) {
      static_cast<void>(cudaFree(memory));
      refuse_call(code, "cudaMemsetAsync");
    }
    return static_cast<std::byte*>(memory);
  }
  /// Waits for the device, which may still write there.
  void release(std::byte* memory) noexcept override { static_cast<void>(cudaFree(memory)); }
  void clear(void* memory, std::size_t bytes) override {
    await_readers();
    check(cudaMemsetAsync(memory, 0, bytes, stream_), "cudaMemsetAsync");
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    for (const Event* const copied : readers_) keep(cudaStreamWaitEvent(stream_, copied->get(), 0));
    readers_.clear();
    keep(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  void exchange(void* a, void* b, std::size_t bytes) noexcept override {
    if (exchange_ == nullptr) keep(cudaMalloc(&exchange_, exchange_bytes));
    if (exchange_ == nullptr) return;
    for (std::size_t done = 0; done < bytes; done += exchange_bytes) {
      const std::size_t part = std::min(exchange_bytes, bytes - done);
      auto* const first = static_cast<std::byte*>(a) + done;
      auto* const second = static_cast<std::byte*>(b) + done;
      copy(exchange_, first, part);
      copy(first, second, part);
      copy(second, exchange_, part);
    }
  }
  /// Through two pinned buffers: the device fills one while the host empties the other.
  void read(void* host, const void* from, std::size_t bytes) override {
    stage();
    const auto* const device = static_cast<const std::byte*>(from);
    auto* const to = static_cast<std::byte*>(host);
    const auto fetch = [&](std::size_t part) {
      const std::size_t at = part * staged_bytes;
      if (at >= bytes) return;
      check(cudaMemcpyAsync(staging_[part % 2]->data(), device + at,
                            std::min(staged_bytes, bytes - at), cudaMemcpyDeviceToHost, stream_),
            "cudaMemcpyAsync");
      arrived_[part % 2]->record(stream_);
    };
    fetch(0);
    for (std::size_t part = 0; part * staged_bytes < bytes; ++part) {
      fetch(part + 1);
      arrived_[part % 2]->wait();
      const std::size_t at = part * staged_bytes;
      std::memcpy(to + at, staging_[part % 2]->data(), std::min(staged_bytes, bytes - at));
    }
    report();
  }
  void write(void* to, const void* host, std::size_t bytes) override {
    stage();
    await_readers();
    for (std::size_t part = 0; part * staged_bytes < bytes; ++part) {
      const std::size_t at = part * staged_bytes, size = std::min(staged_bytes, bytes - at);
      if (part >= 2) arrived_[part % 2]->wait();
      std::memcpy(staging_[part % 2]->data(), static_cast<const std::byte*>(host) + at, size);
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + at, staging_[part % 2]->data(), size,
                            cudaMemcpyHostToDevice, stream_),
            "cudaMemcpyAsync");
      arrived_[part % 2]->record(stream_);
    }
    synchronize();
  }
  void check(const void* memory, std::string_view tensor) const override {
    cudaPointerAttributes attributes{};
    const cudaError_t code = cudaPointerGetAttributes(&attributes, memory);
    if (code != cudaSuccess) static_cast<void>(cudaGetLastError());  // memory of the host
    const bool known = code == cudaSuccess && (attributes.type == cudaMemoryTypeDevice ||
                                               attributes.type == cudaMemoryTypeManaged);
    if (!known) {
      polyak::detail::refuse_value(
          std::string("polyak: tensor \"")
              .append(tensor)
              .append("\" must be on a device; it is in the host's memory"));
    }
    require(attributes.device == device_ || attributes.type == cudaMemoryTypeManaged,
            std::string("tensor \"").append(tensor).append("\" must be on the executor's device ") +
                polyak::detail::text(device_) + "; its device",
            attributes.device);
  }
  static void check(cudaError_t code, const char* call) { detail::check(code, call); }
  void require_settled(const void* block) const override {
    for (const Waiting& one : waiting) {
      if (one.address == block && !one.method.expired()) {
        polyak::detail::refuse_order(
            "polyak: whether the last step was skipped is not known yet; call cuda::settle() "
            "before "
            "its state is read");
      }
    }
  }

  /// Throws errors that copies and exchanges could not report.
  void report() {
    if (const cudaError_t code = std::exchange(kept_, cudaSuccess); code != cudaSuccess) {
      refuse_call(code, "an earlier cudaMemcpyAsync");
    }
  }
  void synchronize() {
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    report();
  }
  [[nodiscard]] bool capturing() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream_, &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }

  /// The table with these rows; made and uploaded if it does not exist yet.
  [[nodiscard]] std::shared_ptr<DeviceTable> table(std::span<const std::uint64_t> rows,
                                                   std::size_t row_words, std::size_t chunk,
                                                   std::span<const std::uint64_t> gradients) {
    for (const auto& known : tables_) {
      if (known->row_words == row_words && known->chunk == chunk &&
          std::equal(rows.begin(), rows.end(), known->rows.begin(), known->rows.end())) {
        known->last_use = ++uses_;
        return known;
      }
    }
    if (capturing()) {
      polyak::detail::refuse_order(
          "polyak: a step or sweep of other tensors than any before it, in a stream that is "
          "captured; make it once before capturing");
    }
    auto made = std::make_shared<DeviceTable>();
    made->rows.assign(rows.begin(), rows.end());
    made->gradients.assign(gradients.begin(), gradients.end());
    made->row_words = row_words;
    made->chunk = chunk;
    made->last_use = ++uses_;
    std::vector<std::uint64_t> words;
    for (std::size_t row = 0; row * row_words < rows.size(); ++row) {
      for (std::uint64_t begin = 0; begin < rows[row * row_words + 1]; begin += chunk) {
        words.push_back(row);
        words.push_back(begin);
      }
    }
    made->chunks = words.size() / 2;
    made->rows_at = words.size() * 8;
    words.insert(words.end(), rows.begin(), rows.end());
    made->gradients_at = words.size() * 8;
    words.insert(words.end(), gradients.begin(), gradients.end());
    if (!words.empty()) {
      made->memory = allocate(words.size() * 8);
      tables_.push_back(made);
      write(made->memory, words.data(), words.size() * 8);
    } else {
      tables_.push_back(made);
    }
    forget_oldest();
    return made;
  }

  // Used by sweep.hpp and skipped_steps.hpp from step to step.

  struct Scratch {
    std::vector<std::uint32_t> order;
    std::vector<std::uint64_t> rows, gradients, laws;
    std::vector<std::uint64_t> groups;
  };
  [[nodiscard]] Scratch& scratch() { return scratch_; }

  /// On the device, initially 0: a step's marks, for gradients, for weights before and for weights
  /// after it.
  static constexpr std::size_t mark_count = 3;
  [[nodiscard]] unsigned* marks() {
    if (marks_ == nullptr) marks_ = allocate(mark_count * sizeof(unsigned));
    return reinterpret_cast<unsigned*>(marks_);
  }
  /// The host's copy of the marks, and the event after which it is valid.
  [[nodiscard]] volatile unsigned* reported() {
    if (!reported_) reported_ = std::make_unique<Pinned>(mark_count * sizeof(unsigned));
    return reinterpret_cast<volatile unsigned*>(reported_->data());
  }
  [[nodiscard]] unsigned* reported_on_device() {
    static_cast<void>(reported());
    void* address = nullptr;
    check(cudaHostGetDevicePointer(&address, reported_->data(), 0), "cudaHostGetDevicePointer");
    return static_cast<unsigned*>(address);
  }
  [[nodiscard]] Event& report_event() {
    if (!report_event_) report_event_ = std::make_unique<Event>();
    return *report_event_;
  }
  // Copies of weights in progress in other streams; a step must wait for them.
  void add_reader(const Event* copied) {
    forget_reader(copied);  // replaces an earlier record
    readers_.push_back(copied);
  }
  void forget_reader(const Event* copied) { std::erase(readers_, copied); }
  void await_readers() {
    for (const Event* const copied : readers_) {
      check(cudaStreamWaitEvent(stream_, copied->get(), 0), "cudaStreamWaitEvent");
    }
    readers_.clear();
  }

  std::vector<Waiting> waiting;  ///< for the newest report
  std::uint64_t launches = 0;

 private:
  static constexpr std::size_t staged_bytes = std::size_t{8} << 20;
  static constexpr std::size_t exchange_bytes = std::size_t{8} << 20;
  static constexpr std::size_t tables_kept = 64;

  void keep(cudaError_t code) noexcept {
    if (code != cudaSuccess && kept_ == cudaSuccess) kept_ = code;
  }
  void stage() {
    for (int k = 0; k < 2; ++k) {
      if (!staging_[k]) staging_[k] = std::make_unique<Pinned>(staged_bytes);
      if (!arrived_[k]) arrived_[k] = std::make_unique<Event>();
    }
  }
  void forget_oldest() {
    if (tables_.size() <= tables_kept) return;
    auto oldest = tables_.end();
    for (auto it = tables_.begin(); it != tables_.end(); ++it) {
      const bool free = it->use_count() == 1 && !(*it)->captured;  // nor held by a captured step
      if (free && (oldest == tables_.end() || (*it)->last_use < (*oldest)->last_use)) oldest = it;
    }
    if (oldest == tables_.end()) return;
    release(**oldest);
    tables_.erase(oldest);
  }
  static void release(const DeviceTable& table) {
    for (const DeviceTable::Laws& laws : table.laws) static_cast<void>(cudaFree(laws.memory));
    static_cast<void>(cudaFree(table.memory));
  }

  cudaStream_t stream_;
  int device_;
  cudaError_t kept_ = cudaSuccess;
  void* exchange_ = nullptr;
  std::unique_ptr<Pinned> staging_[2];
  std::unique_ptr<Event> arrived_[2];
  std::vector<std::shared_ptr<DeviceTable>> tables_;
  std::uint64_t uses_ = 0;
  std::byte* marks_ = nullptr;
  std::unique_ptr<Pinned> reported_;
  std::unique_ptr<Event> report_event_;
  Scratch scratch_;
  std::vector<const Event*> readers_;
};

/// The space of a list on a device.
[[nodiscard]] inline DeviceSpace& space_of(const Layout& layout) {
  return static_cast<DeviceSpace&>(*layout.space);
}

}  // namespace detail

/// Runs steps on a device, in the order of a stream. Executor is a handle: copies refer to the same
/// executor, and lists and methods keep it alive. The stream must outlive all of them. For one
/// thread at a time.
class Executor {
 public:
  /// For a stream of the current device; null means its default stream. Throws cuda::error (a
  /// std::runtime_error) if there is no device or no driver.
  explicit Executor(cudaStream_t stream = nullptr) {
    int devices = 0;
    const cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess || devices == 0) {
      static_cast<void>(cudaGetLastError());
      POLYAK_THROW(error, std::string("polyak: there is no CUDA device to run on (") +
                              (code == cudaSuccess ? "none is visible" : cudaGetErrorString(code)) +
                              ")");
    }
    int device = 0;
    detail::check(cudaGetDevice(&device), "cudaGetDevice");
    space_ = std::make_shared<detail::DeviceSpace>(stream, device);
  }

  [[nodiscard]] cudaStream_t stream() const { return space_->stream(); }
  [[nodiscard]] int device() const { return space_->device(); }
  [[nodiscard]] const std::shared_ptr<detail::DeviceSpace>& space() const { return space_; }
  /// Number of kernels launched so far.
  [[nodiscard]] std::uint64_t launches() const { return space_->launches; }
  /// Waits for everything that was launched, and throws its errors.
  void synchronize() const { space_->synchronize(); }

 private:
  std::shared_ptr<detail::DeviceSpace> space_;
};

/// A list of tensors in the memory of an executor's device; T: float, double, Eigen::half or
/// Eigen::bfloat16 (whose memory CUDA calls __half and __nv_bfloat16). Methods constructed for it
/// have their state there, and step() and update() run there.
template <class T = float>
using Parameters = polyak::Parameters<Device<T>>;
template <class T = float>
using Gradients = polyak::Gradients<Device<T>>;

/// Owned memory on a device: zeros, or a copy of numbers on the host.
template <class T>
class Buffer {
 public:
  using value_type = T;

  Buffer(const Executor& executor, std::size_t size)
      : space_(executor.space()),
        size_(size),
        data_(size == 0 ? nullptr : space_->allocate(bytes())) {}
  Buffer(const Executor& executor, std::span<const T> host) : Buffer(executor, host.size()) {
    upload(host);
  }
  Buffer(Buffer&& other) noexcept
      : space_(std::move(other.space_)),
        size_(std::exchange(other.size_, 0)),
        data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(space_, other.space_);
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) space_->release(data_);
  }

  /// An address on the device.
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(data_); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const std::shared_ptr<detail::DeviceSpace>& space() const { return space_; }
  [[nodiscard]] std::size_t bytes() const { return size_ * polyak::detail::scalar_bytes<T>; }

  /// Copies numbers from the host. Throws std::invalid_argument for another size.
  void upload(std::span<const T> host) {
    require(host.size() == size_,
            "Buffer::upload must be given " + polyak::detail::text(size_) + " numbers",
            host.size());
    polyak::detail::write_bytes(space_.get(), data_, host.data(), bytes());
  }
  /// Waits for the stream, and returns the numbers.
  [[nodiscard]] std::vector<T> download() const {
    std::vector<T> host(size_);
    polyak::detail::read_bytes(space_.get(), host.data(), data_, bytes());
    return host;
  }

 private:
  std::shared_ptr<detail::DeviceSpace> space_;
  std::size_t size_;
  std::byte* data_;
};

}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
