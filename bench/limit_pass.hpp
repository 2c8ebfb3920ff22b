// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "cases.hpp"
#include "harness.hpp"
#include "limit.hpp"
#include "streams.hpp"

namespace polyak_bench {

/// The limit kernel over all tensors of a case, on streams of its own.
inline Pass limit_pass(const Case& tensors, std::size_t updated) {
  const auto streams = std::make_shared<Streams>(tensors, updated + 1);
  for (std::size_t stream = 0; stream <= updated; ++stream) {
    streams->fill(stream, static_cast<float>(stream + 1));
  }
  return [tensors, updated, streams, kernel = limit_kernel(updated)] {
    for (std::size_t tensor = 0; tensor < tensors.tensors.size(); ++tensor) {
      std::array<float*, max_updated_streams> pointers;
      for (std::size_t k = 0; k < updated; ++k) pointers[k] = streams->data(k + 1, tensor);
      kernel(streams->data(0, tensor), pointers.data(), tensors.tensors[tensor].size());
    }
  };
}

/// The sum of 8 streams over all tensors of a case.
inline Pass limit_sum_pass(const Case& tensors) {
  const auto streams = std::make_shared<Streams>(tensors, summed_streams + 1);
  for (std::size_t stream = 0; stream <= summed_streams; ++stream) streams->fill(stream, 1.0F);
  return [tensors, streams] {
    for (std::size_t tensor = 0; tensor < tensors.tensors.size(); ++tensor) {
      std::array<const float*, summed_streams> pointers;
      for (std::size_t k = 0; k < summed_streams; ++k) pointers[k] = streams->data(k + 1, tensor);
      limit_sum(pointers.data(), streams->data(0, tensor), tensors.tensors[tensor].size());
    }
  };
}

}  // namespace polyak_bench
