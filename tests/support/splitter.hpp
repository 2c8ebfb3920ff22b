// SPDX-License-Identifier: Apache-2.0
/// @file
/// An executor that splits a sweep in a chosen way.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <random>
#include <thread>
#include <vector>

enum class Split {
  whole,    ///< one range
  pieces,   ///< ranges cut at random places, in random order
  threads,  ///< the same, each on a thread of its own
};

class Splitter {
 public:
  explicit Splitter(Split split, unsigned seed = 1) : split_(split), random_(seed) {}

  template <class Range>
  void operator()(std::size_t elements, Range&& range) {
    if (split_ == Split::whole) return range(std::size_t{0}, elements);
    std::array<std::size_t, pieces + 1> cuts{};
    for (std::size_t& cut : cuts) cut = random_() % (elements + 1);
    cuts.front() = 0;
    cuts.back() = elements;
    std::sort(cuts.begin(), cuts.end());
    std::array<std::size_t, pieces> order{};
    for (std::size_t k = 0; k < pieces; ++k) order[k] = k;
    std::shuffle(order.begin(), order.end(), random_);
    if (split_ == Split::pieces) {
      for (const std::size_t k : order) range(cuts[k], cuts[k + 1]);
      return;
    }
    std::vector<std::thread> threads;
    for (const std::size_t k : order) {
      threads.emplace_back([&range, &cuts, k] { range(cuts[k], cuts[k + 1]); });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  static constexpr std::size_t pieces = 7;
  Split split_;
  std::mt19937 random_;
};
