// SPDX-License-Identifier: Apache-2.0
/// @file
/// polyak_lists [TENSORS [ROUNDS]]: registering many tensors (100,000), and setting the gradients
/// of 2,000, by name and by a list of pointers. Medians of rounds.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace {

constexpr std::size_t elements = 8;  // of a tensor, and of the room behind it

std::vector<std::string> names_of(std::size_t tensors) {
  std::vector<std::string> names;
  for (std::size_t k = 0; k < tensors; ++k) {
    names.push_back("model.layers." + std::to_string(k) + ".weight");
  }
  return names;
}

/// Places in one array: in order, from its end, or at random.
std::vector<float*> places(std::vector<float>& memory, const std::string& order) {
  std::vector<float*> all;
  for (std::size_t at = 0; at < memory.size(); at += 2 * elements) all.push_back(&memory[at]);
  if (order == "descending") std::reverse(all.begin(), all.end());
  if (order == "random") std::shuffle(all.begin(), all.end(), std::mt19937(1));
  return all;
}

polyak::Parameters<float> list_of(const std::vector<std::string>& names,
                                  const std::vector<float*>& places) {
  polyak::Parameters<float> params;
  for (std::size_t k = 0; k < names.size(); ++k) params.add(names[k], places[k], {elements});
  return params;
}

/// Median of the microseconds that the call takes.
template <class Call>
double microseconds(int rounds, Call call) {
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    times.push_back(time.count());
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[static_cast<std::size_t>(rounds / 2)];
}

void register_tensors(std::size_t tensors, int rounds) {
  const std::vector<std::string> names = names_of(tensors);
  std::vector<float> memory(tensors * 2 * elements);
  for (const std::string order : {"ascending", "descending", "random"}) {
    const std::vector<float*> at = places(memory, order);
    std::size_t registered = 0;
    const double time = microseconds(rounds, [&] { registered = list_of(names, at).size(); });
    std::printf("register %zu tensors, %s addresses: %.1f ms, %.0f ns each\n", registered,
                order.c_str(), time / 1e3, time * 1e3 / static_cast<double>(tensors));
  }
}

void set_gradients(std::size_t tensors, int rounds) {
  const std::vector<std::string> names = names_of(tensors);
  std::vector<float> memory(tensors * 2 * elements), arena(tensors * elements);
  const std::vector<float*> at = places(memory, "ascending");
  const polyak::Parameters<float> params = list_of(names, at);
  polyak::Gradients<float> gradients(params);
  const auto report = [&](const char* name, double time) {
    std::printf("%s of %zu tensors: %.1f us\n", name, tensors, time);
  };
  report("construct the gradients",
         microseconds(rounds, [&] { gradients = polyak::Gradients<float>(params); }));
  report("set each gradient by name", microseconds(rounds, [&] {
           for (std::size_t k = 0; k < tensors; ++k) gradients.set(names[k], at[k] + elements);
         }));
  std::vector<const float*> together, between;
  for (std::size_t k = 0; k < tensors; ++k) {
    together.push_back(&arena[k * elements]);
    between.push_back(at[k] + elements);
  }
  std::mt19937 random(2);
  report("set all, in one block", microseconds(rounds, [&] { gradients.set_all(together); }));
  std::shuffle(between.begin(), between.end(), random);
  report("set all, between the tensors", microseconds(rounds, [&] { gradients.set_all(between); }));
  // Each gradient in another place than the last time: no hint helps.
  std::vector<std::vector<const float*>> moving(static_cast<std::size_t>(rounds), between);
  for (auto& pointers : moving) std::shuffle(pointers.begin(), pointers.end(), random);
  std::size_t round = 0;
  report("set all, between other tensors each time",
         microseconds(rounds, [&] { gradients.set_all(moving[round++]); }));
}

}  // namespace

int main(int count, char** arguments) {
  const std::size_t tensors = count > 1 ? std::strtoul(arguments[1], nullptr, 10) : 100'000;
  const int rounds = count > 2 ? std::atoi(arguments[2]) : 11;
  if (tensors < 1 || rounds < 1) {
    std::fprintf(stderr, "usage: polyak_lists [TENSORS >= 1 [ROUNDS >= 1]]\n");
    return 2;
  }
  register_tensors(tensors, rounds);
  set_gradients(2000, 10 * rounds);
  return 0;
}
