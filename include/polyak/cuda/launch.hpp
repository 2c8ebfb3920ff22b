// SPDX-License-Identifier: Apache-2.0
/// @file
/// Launches, and tables on a device.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/launch.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <polyak/cuda/error.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/grid.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

#if defined(__CUDACC__)
template <class Kernel>
__global__ void __launch_bounds__(block_threads, 2)
    polyak_kernel(const __grid_constant__ Kernel kernel) {
  kernel(blockIdx.x, threadIdx.x, blockDim.x);
}
#endif

/// Calls `kernel(block, thread, threads)` for each thread of `blocks` blocks, in the order of the
/// stream.
template <class Kernel>
void launch(DeviceSpace& space, const Kernel& kernel, std::size_t blocks, const char* what) {
  if (blocks == 0) return;
  const OnDevice here(space.device());
#if defined(__CUDACC__)
  static_assert(sizeof(Kernel) <= 4096, "polyak: a launch takes at most 4 KiB of arguments");
  polyak_kernel<<<static_cast<unsigned>(blocks), block_threads, 0, space.stream()>>>(kernel);
#else
  emulation::launch(space.stream(), kernel, blocks, block_threads);
#endif
  check(cudaGetLastError(), what);
  ++space.launches;
}

/// Writes words to the device as arguments of launches.
inline void write_words(DeviceSpace& space, void* to, const std::uint64_t* words,
                        std::size_t count) {
  for (std::size_t done = 0; done < count; done += WriteKernel::capacity) {
    WriteKernel kernel;
    kernel.to = static_cast<std::uint64_t*>(to) + done;
    kernel.count = std::min(WriteKernel::capacity, count - done);
    std::memcpy(kernel.words, words + done, kernel.count * 8);
    launch(space, kernel, 1, "the launch that writes addresses and scalars");
  }
}

template <std::size_t R>
[[nodiscard]] Table<R> view_of(const DeviceTable& table) {
  static_assert(sizeof(Row<R>) == 8 * (3 + (R == 0 ? 1 : R)) && sizeof(Chunk) == 16);
  return {reinterpret_cast<const Chunk*>(table.memory),
          reinterpret_cast<const Row<R>*>(table.memory + table.rows_at),
          reinterpret_cast<const void* const*>(table.memory + table.gradients_at)};
}

/// Updates the addresses of gradients on the device, or the words of streams.
inline void update_gradients(DeviceSpace& space, DeviceTable& table,
                             const std::vector<std::uint64_t>& gradients, bool always) {
  if (!always && table.gradients == gradients) return;
  write_words(space, table.memory + table.gradients_at, gradients.data(), gradients.size());
  table.gradients = gradients;
}

/// Updates the laws that a kernel finds by row, and returns their place on the device.
inline std::byte* update_laws(DeviceSpace& space, DeviceTable& table, const void* kernel,
                              const std::vector<std::uint64_t>& words) {
  auto known = std::find_if(table.laws.begin(), table.laws.end(),
                            [&](const DeviceTable::Laws& one) { return one.kernel == kernel; });
  if (known == table.laws.end()) {
    table.laws.push_back({kernel, {}});
    known = table.laws.end() - 1;
  }
  if (words.size() > known->capacity) {
    if (space.capturing()) {
      polyak::detail::refuse_order(
          "polyak: a step of other groups than any before it, in a stream that is captured; make "
          "one such step before capturing");
    }
    std::byte* const larger = space.allocate(words.size() * 8);
    if (known->memory != nullptr) space.release(known->memory);
    known->memory = larger;
    known->capacity = words.size();
    known->words.clear();
  }
  // Usually only the scalars have changed, and each row still has the same law number.
  std::size_t first = 0, last = words.size();
  if (known->words.size() == last) {
    while (first < last && known->words[first] == words[first]) ++first;
    while (last > first && known->words[last - 1] == words[last - 1]) --last;
  }
  write_words(space, known->memory + first * 8, words.data() + first, last - first);
  known->words = words;
  return known->memory;
}

}  // namespace detail
}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
