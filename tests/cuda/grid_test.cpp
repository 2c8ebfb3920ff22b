// SPDX-License-Identifier: Apache-2.0
// polyak/cuda/grid.hpp: the work of threads, thread by thread, on the host. Only for the emulation:
// it looks at the memory of the device, whose allocations end where the tensors do.
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/optim/adamw.hpp>

#include "../support/catch.hpp"
#include "twin.hpp"

namespace device_tests::grid_test {

using namespace polyak;
namespace grid = polyak::cuda::detail;

namespace {

/// One optimizer and one average for tensors of all sizes at all distances from 16 bytes.
template <class P>
void check_alignments() {
  constexpr std::size_t per_vector = 16 / sizeof(P);
  std::vector<std::size_t> sizes;
  for (std::size_t size = 1; size <= 2 * per_vector + 3; ++size) sizes.push_back(size);
  using Laws = grid::GridSweep<P>;  // without laws: the shortest chunk
  for (const std::size_t size : {Laws::chunk - 1, Laws::chunk, Laws::chunk + 1})
    sizes.push_back(size);
  for (std::size_t lead = 0; lead < per_vector; ++lead) {
    for (std::size_t gradient_lead = 0; gradient_lead < per_vector; ++gradient_lead) {
      twin::check<P>(
          "AdamW and Ema",
          []<class Q>(const Parameters<Q>& p) {
            return std::tuple(AdamW<Q>(p, {.learning_rate = 0.01}), Ema<Q>(p, {.decay = 0.9}));
          },
          2, sizes, lead, gradient_lead);
    }
  }
}

}  // namespace

TEST_CASE("every head, tail and alignment gives the bits of the host on a device: float") {
  check_alignments<float>();
}
TEST_CASE("every head, tail and alignment gives the bits of the host on a device: double") {
  check_alignments<double>();
}
TEST_CASE("every head, tail and alignment gives the bits of the host on a device: half") {
  check_alignments<Eigen::half>();
}
TEST_CASE("every head, tail and alignment gives the bits of the host on a device: bfloat16") {
  check_alignments<Eigen::bfloat16>();
}

TEST_CASE("the random bits of eight elements equal those of their block") {
  const polyak::detail::RandomKey key{42, 5, 3};
  polyak::detail::RandomBits bits{};
  for (const std::size_t block : {std::size_t{0}, std::size_t{2}, std::size_t{0x2af37bc048}}) {
    polyak::detail::fill_bytes(key, block, bits);
    for (std::size_t at = 0; at < bits.elements; at += 8) {
      const grid::EightRandoms eight(key, block * bits.elements + at);
      for (std::size_t k = 0; k < 8; ++k) {
        CHECK(eight.of(static_cast<int>(k)) == polyak::detail::sixteen_bits(bits.of(at + k)));
      }
    }
  }
}

TEST_CASE("a sweep on a device reaches elements beyond 2^32 of a tensor") {
  // Addresses alone: pages that are never touched take no memory.
  constexpr std::size_t size = (std::size_t{1} << 32) + 4099;
  constexpr std::size_t bytes = (size + 32) * sizeof(float);
  const auto reserve = [&] {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    return static_cast<float*>(memory);
  };
  float *const x = reserve(), *const average = reserve();
  using Bound = polyak::detail::BoundLaw<AverageLaw<float>, float>;
  using Sweep = grid::GridSweep<float, Bound>;
  Sweep::Arguments arguments{};
  arguments.laws.first.law = {0.25f};
  arguments.laws.first.slots[0] = average;
  grid::Row<1> row{x, size, 0, {0}};
  const std::size_t begin = (size - 1) / Sweep::chunk * Sweep::chunk;
  CHECK(begin >= std::size_t{1} << 32);
  for (std::size_t k = begin; k < size; ++k) x[k] = 4;
  for (unsigned thread = 0; thread < grid::block_threads; ++thread) {
    Sweep::thread(row, nullptr, arguments, begin, thread, grid::block_threads);
  }
  std::size_t wrong = 0;
  for (std::size_t k = begin; k < size; ++k) wrong += average[k] == 1 ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(average[begin - 1] == 0);
  ::munmap(x, bytes);
  ::munmap(average, bytes);
}

}  // namespace device_tests::grid_test
