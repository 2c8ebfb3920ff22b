// SPDX-License-Identifier: Apache-2.0
#include "limit.hpp"

#include <utility>

// A file of its own, compiled for the machine at hand whatever the rest of the program is compiled
// for: the limit is the machine's. It includes nothing whose inline functions the rest could share.

namespace polyak_bench {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t vector_bytes = 32;
#else
constexpr std::size_t vector_bytes = 16;
#endif
typedef float Vector __attribute__((vector_size(vector_bytes), may_alias));
constexpr std::size_t lanes = vector_bytes / sizeof(float);

// Every value is replaced by source - value: two rounds give it back, so that it stays finite and
// normal for ever. Two vectors of each stream per iteration, all loads before the stores, plain
// stores, no prefetch.
template <std::size_t... Stream>
void run(const float* source, float* const* updated, std::size_t count,
         std::index_sequence<Stream...>) {
  const Vector* const in = reinterpret_cast<const Vector*>(source);
  Vector* const out[] = {reinterpret_cast<Vector*>(updated[Stream])...};
  const std::size_t vectors = (count + lanes - 1) / lanes;
  std::size_t i = 0;
  for (; i + 2 <= vectors; i += 2) {
    const Vector first[] = {in[i] - out[Stream][i]...};
    const Vector second[] = {in[i + 1] - out[Stream][i + 1]...};
    ((out[Stream][i] = first[Stream], out[Stream][i + 1] = second[Stream]), ...);
  }
  if (i < vectors) ((out[Stream][i] = in[i] - out[Stream][i]), ...);
}

template <std::size_t Updated>
void kernel(const float* source, float* const* updated, std::size_t count) {
  run(source, updated, count, std::make_index_sequence<Updated>());
}

template <std::size_t... Source>
void sum(const float* const* sources, float* target, std::size_t count,
         std::index_sequence<Source...>) {
  const Vector* const in[] = {reinterpret_cast<const Vector*>(sources[Source])...};
  Vector* const out = reinterpret_cast<Vector*>(target);
  const std::size_t vectors = (count + lanes - 1) / lanes;
  for (std::size_t i = 0; i < vectors; ++i) out[i] = (in[Source][i] + ...);
}

template <std::size_t... Index>
LimitKernel choose(std::size_t updated, std::index_sequence<Index...>) {
  constexpr LimitKernel kernels[] = {kernel<Index + 1>...};
  return kernels[updated - 1];
}

}  // namespace

LimitKernel limit_kernel(std::size_t updated) {
  return choose(updated, std::make_index_sequence<max_updated_streams>());
}

void limit_sum(const float* const* sources, float* target, std::size_t count) {
  sum(sources, target, count, std::make_index_sequence<summed_streams>());
}

std::size_t limit_vector_bytes() { return vector_bytes; }

}  // namespace polyak_bench
