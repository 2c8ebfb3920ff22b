// SPDX-License-Identifier: Apache-2.0
// A stand-in for the header of the CUDA runtime, in which the host is the device: what polyak/cuda/
// calls, over queues that run their work as late as CUDA may: when something waits for it. So a wait
// that is missing shows, and with the address sanitizer every access outside of its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
inline constexpr unsigned cudaHostAllocMapped = 2, cudaHostAllocPortable = 1;
inline constexpr unsigned cudaEventDisableTiming = 2, cudaStreamNonBlocking = 1;

namespace emulation {

struct Stream {
  std::deque<std::function<void()>> work;
  bool capturing = false;
  std::vector<std::function<void()>> captured;
};
struct Event {
  Stream* stream = nullptr;
  std::shared_ptr<bool> done = std::make_shared<bool>(true);
};
struct Graph {
  std::vector<std::function<void()>> work;
};

struct Machine {
  std::recursive_mutex lock;
  Stream standard;
  std::vector<Stream*> streams{&standard};
  std::map<const char*, std::size_t> device, pinned;  // where memory begins, and its bytes
  std::map<std::string, int> calls;
  std::string failing;       // the call that fails next
  int devices = 1;
  std::vector<std::size_t> launched;  // blocks of each launch
};
inline Machine& machine() {
  static Machine one;
  return one;
}

using Guard = std::lock_guard<std::recursive_mutex>;

inline bool within(const std::map<const char*, std::size_t>& blocks, const void* address) {
  const char* const at = static_cast<const char*>(address);
  auto it = blocks.upper_bound(at);
  if (it == blocks.begin()) return false;
  --it;
  return at < it->first + it->second;
}

/// Counts a call, and fails the one that is to fail.
inline cudaError_t call(const char* name, cudaError_t code = cudaErrorInvalidValue) {
  Machine& m = machine();
  ++m.calls[name];
  if (m.failing != name) return cudaSuccess;
  m.failing.clear();
  return code;
}

inline Stream& of(Stream* stream) { return stream == nullptr ? machine().standard : *stream; }

inline void enqueue(Stream* stream, std::function<void()> work) {
  const Guard guard(machine().lock);
  Stream& s = of(stream);
  if (s.capturing) {
    s.captured.push_back(std::move(work));
  } else {
    s.work.push_back(std::move(work));
  }
}
inline void run(Stream& stream) {
  const Guard guard(machine().lock);
  while (!stream.work.empty()) {
    const auto next = std::move(stream.work.front());
    stream.work.pop_front();
    next();
  }
}
inline void run_until(const Event& event) {
  const Guard guard(machine().lock);
  while (!*event.done && event.stream != nullptr && !event.stream->work.empty()) {
    const auto next = std::move(event.stream->work.front());
    event.stream->work.pop_front();
    next();
  }
}
inline void run_all() {
  for (Stream* const stream : machine().streams) run(*stream);
}

template <class Kernel>
void launch(Stream* stream, const Kernel& kernel, std::size_t blocks, unsigned threads) {
  const Guard guard(machine().lock);
  machine().launched.push_back(blocks);
  enqueue(stream, [kernel, blocks, threads] {
    for (std::size_t block = 0; block < blocks; ++block) {
      for (unsigned thread = 0; thread < threads; ++thread) {
        kernel(static_cast<unsigned>(block), thread, threads);
      }
    }
  });
}

}  // namespace emulation

using cudaStream_t = emulation::Stream*;
using cudaEvent_t = emulation::Event*;
using cudaGraph_t = emulation::Graph*;
using cudaGraphExec_t = emulation::Graph*;

inline const char* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorNoDevice          ? "cudaErrorNoDevice"
         : code == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
         : code == cudaErrorLaunchFailure    ? "cudaErrorLaunchFailure"
                                             : "cudaErrorInvalidValue";
}
inline const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "as the test wants it";
}
inline cudaError_t cudaGetLastError() {
  return emulation::call("cudaGetLastError", cudaErrorLaunchFailure);
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulation::machine().devices;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

inline cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const emulation::Guard guard(emulation::machine().lock);
  if (const auto code = emulation::call("cudaMalloc", cudaErrorMemoryAllocation); code != cudaSuccess) {
    return code;
  }
  // To the byte, for the sanitizer's sake.
  *memory = ::operator new(bytes, std::align_val_t{256});
  std::memset(*memory, 0x5a, bytes);
  emulation::machine().device[static_cast<const char*>(*memory)] = bytes;
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMalloc(T** memory, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}
inline cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const emulation::Guard guard(emulation::machine().lock);
  emulation::run_all();
  emulation::machine().device.erase(static_cast<const char*>(memory));
  ::operator delete(memory, std::align_val_t{256});
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  const emulation::Guard guard(emulation::machine().lock);
  if (const auto code = emulation::call("cudaHostAlloc", cudaErrorMemoryAllocation); code != cudaSuccess) {
    return code;
  }
  *memory = ::operator new(bytes);
  emulation::machine().pinned[static_cast<const char*>(*memory)] = bytes;
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const emulation::Guard guard(emulation::machine().lock);
  emulation::run_all();
  emulation::machine().pinned.erase(static_cast<const char*>(memory));
  ::operator delete(memory);
  return cudaSuccess;
}
inline cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  if (const auto code = emulation::call("cudaMemsetAsync"); code != cudaSuccess) return code;
  emulation::enqueue(stream, [=] { std::memset(memory, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                                   cudaMemcpyKind kind, cudaStream_t stream) {
  const emulation::Guard guard(emulation::machine().lock);
  const char* const name = kind == cudaMemcpyDeviceToDevice ? "cudaMemcpyAsync within"
                                                            : "cudaMemcpyAsync host";
  if (const auto code = emulation::call("cudaMemcpyAsync"); code != cudaSuccess) return code;
  static_cast<void>(emulation::call(name));
  if (kind == cudaMemcpyHostToDevice && !emulation::within(emulation::machine().pinned, from)) {
    // From memory that is not pinned the call returns when it has read it.
    const auto* const first = static_cast<const char*>(from);
    emulation::enqueue(stream, [=, copy = std::vector<char>(first, first + bytes)] {
      if (bytes != 0) std::memcpy(to, copy.data(), bytes);
    });
    return cudaSuccess;
  }
  emulation::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const emulation::Guard guard(emulation::machine().lock);
  *stream = new emulation::Stream;
  emulation::machine().streams.push_back(*stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const emulation::Guard guard(emulation::machine().lock);
  emulation::run(*stream);
  std::erase(emulation::machine().streams, stream);
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const auto code = emulation::call("cudaStreamSynchronize"); code != cudaSuccess) return code;
  emulation::run(emulation::of(stream));
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = emulation::of(stream).capturing ? cudaStreamCaptureStatusActive
                                            : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new emulation::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const emulation::Guard guard(emulation::machine().lock);
  event->stream = &emulation::of(stream);
  event->done = std::make_shared<bool>(false);
  emulation::enqueue(stream, [done = event->done] { *done = true; });
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const auto code = emulation::call("cudaEventSynchronize"); code != cudaSuccess) return code;
  emulation::run_until(*event);
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
  const emulation::Guard guard(emulation::machine().lock);
  emulation::enqueue(stream, [at = *event] { emulation::run_until(at); });
  return cudaSuccess;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  const emulation::Guard guard(emulation::machine().lock);
  attributes->device = 0;
  attributes->type = emulation::within(emulation::machine().device, memory) ? cudaMemoryTypeDevice
                     : emulation::within(emulation::machine().pinned, memory)
                         ? cudaMemoryTypeHost
                         : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capturing = true;
  stream->captured.clear();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  *graph = new emulation::Graph{std::move(stream->captured)};
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned) {
  *made = new emulation::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& work : graph->work) emulation::enqueue(stream, work);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
