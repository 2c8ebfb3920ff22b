// SPDX-License-Identifier: Apache-2.0
//
// polyak_bench measures the methods of the library, as any Google Benchmark program. Names are
// method/case/threads, fused methods joined by '+'. Counters, from medians of interleaved rounds:
//   bytes_per_second  the bytes that the method must read and write, over its time
//   of_limit          time of a kernel written with intrinsics for the same arithmetic on the same
//                     reads and writes, over the method's time
//   vs_<peer>         time of the same update as people have it today, over the method's time:
//                     vs_eigen (whole-array statements), vs_plain (loops over std::vector, built
//                     with -O2), vs_torch (LibTorch's AdamW, averages by lerp_), vs_torch_foreach
//                     (averages by _foreach functions)
//   ns_per_call, ns_per_tensor   the method's time, for small cases
// Before it measures anything, the program checks that all of them compute the same.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "check.hpp"
#include "harness.hpp"
#include "limit.hpp"
#include "methods.hpp"

namespace polyak_bench {
namespace {

#if defined(__AVX512F__)
constexpr const char* library_build = "for processors with AVX-512";
#elif defined(__AVX2__)
constexpr const char* library_build = "for processors with AVX2";
#else
constexpr const char* library_build = "for any processor of its kind";
#endif

Contest contest(const Subject& subject, const Setting& setting) {
  constexpr std::size_t roomy = 125'000'000;  // elements whose copies for all peers fit 24 GiB
  const std::size_t elements = setting.tensors.elements();
  Contest result{
      Contestant(subject.make_method(setting)), Contestant(subject.make_limit(setting)), {}};
  for (const Peer& peer : subject.peers) {
    if ((peer.threaded || setting.threads == 1) && (peer.frugal || elements < roomy)) {
      result.peers.emplace_back(peer.counter, Contestant(peer.make(setting)));
    }
  }
  result.bytes = subject.bytes * static_cast<double>(elements);
  result.tensors = setting.tensors.tensors.size();
  result.small = elements <= 1000 * result.tensors;
  return result;
}

void register_all(const std::vector<Subject>& subjects, const std::vector<Case>& cases,
                  Stage& stage) {
  for (const Subject& subject : subjects) {
    for (const Case& tensors : cases) {
      for (std::size_t threads = 1; threads <= (subject.threaded ? max_threads : 1); ++threads) {
        const std::string name = subject.name + '/' + tensors.name + "/t" + std::to_string(threads);
        benchmark::RegisterBenchmark(
            name.c_str(), [&stage, name, &subject, &tensors, threads](benchmark::State& state) {
              run_contest(state, stage(name, [&] {
                            return contest(subject, Setting{tensors, threads});
                          }));
            });
      }
    }
  }
}

}  // namespace
}  // namespace polyak_bench

int main(int argc, char** argv) {
  using namespace polyak_bench;
#ifdef POLYAK_BENCH_TORCH
  prepare_torch();
#endif
  const std::vector<Subject> subjects = all_subjects();
  const std::vector<Case> cases = all_cases();
  for (const Subject& subject : subjects) {
    if (const auto who = disagreement(subject)) {
      std::cerr << "polyak_bench: the results of " << subject.name << " differ from those of "
                << *who << '\n';
      return 1;
    }
  }
  Stage stage;
  register_all(subjects, cases, stage);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("library_build", library_build);
  benchmark::AddCustomContext("limit_vector_bytes", std::to_string(limit_vector_bytes()));
#ifdef _OPENMP
  benchmark::AddCustomContext("openmp", "present");
#else
  benchmark::AddCustomContext("openmp", "absent, nothing runs with two threads");
#endif
#ifdef POLYAK_BENCH_TORCH
  benchmark::AddCustomContext("torch", torch_version());
#else
  benchmark::AddCustomContext("torch", "absent, no vs_torch");
#endif
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
