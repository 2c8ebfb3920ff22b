// SPDX-License-Identifier: Apache-2.0
//
// polyak_bench measures the methods of the library, as any Google Benchmark program. Names are
// method/case/threads, fused methods joined by '+'. Counters, from medians of interleaved rounds:
//   bytes_per_second  what the method must read and write, over its time
//   of_limit          time of a kernel that only moves these bytes, over the method's time
//   vs_eigen          time of the same update as whole-array Eigen statements, over the method's

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

#include "cases.hpp"
#include "harness.hpp"
#include "limit.hpp"
#include "methods.hpp"

namespace polyak_bench {
namespace {

Contest contest(const Subject& subject, const Case& tensors) {
  constexpr std::size_t elements_per_round = 4 << 20;
  Contest result;
  result.method = subject.make_pass(tensors);
  result.limit = subject.make_limit(tensors);
  if (subject.make_eigen) result.peers.emplace_back("vs_eigen", subject.make_eigen(tensors));
  result.bytes = static_cast<double>(subject.words * tensors.elements() * sizeof(float));
  result.passes = std::max<std::size_t>(1, elements_per_round / tensors.elements());
  return result;
}

void register_all(const std::vector<Subject>& subjects, Stage& stage) {
  for (const Subject& subject : subjects) {
    for (const Case& tensors : all_cases()) {
      const std::string name = subject.name + '/' + tensors.name + "/t1";
      benchmark::RegisterBenchmark(
          name.c_str(), [&stage, name, subject, tensors](benchmark::State& state) {
            run_contest(state, stage(name, [&] { return contest(subject, tensors); }));
          });
    }
  }
}

}  // namespace
}  // namespace polyak_bench

int main(int argc, char** argv) {
  using namespace polyak_bench;
  const std::vector<Subject> subjects = all_subjects();
  for (const Subject& subject : subjects) {
    if (!subject.fused_equals_separate(check_case())) {
      std::cerr << "polyak_bench: " << subject.name << " differs from its separate calls\n";
      return 1;
    }
  }
  Stage stage;
  register_all(subjects, stage);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("limit_vector_bytes", std::to_string(limit_vector_bytes()));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
