// SPDX-License-Identifier: Apache-2.0
// polyak_cuda_bench: steps on a GPU against a copy within its memory, measured in the same run.
//
//   polyak_cuda_bench [--elements N] [--rounds N]
//
// Each row: the median time of the rounds by CUDA events, the bytes that the step must move, and
// the bandwidth as a share of the copy's (bytes read and written). Cases take turns within a round,
// so that all see the same clocks. The last rows have one launch for a whole model against one for
// each tensor, and what a launch costs the host.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>

#include "cases.hpp"

namespace {

using Buffer = polyak::cuda::Buffer<float>;

/// Milliseconds on the device, and seconds of the host's for the calls.
class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    static_cast<void>(cudaEventDestroy(begin_));
    static_cast<void>(cudaEventDestroy(end_));
  }
  template <class Call>
  float operator()(Call call) {
    check(cudaEventRecord(begin_, stream_));
    call();
    check(cudaEventRecord(end_, stream_));
    check(cudaEventSynchronize(end_));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return milliseconds;
  }

 private:
  static void check(cudaError_t code) { polyak::cuda::detail::check(code, "an event of CUDA"); }
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

double median(std::vector<float> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

/// Weights and gradients of a list of tensors, in one piece of memory each.
struct Model {
  Model(const polyak::cuda::Executor& executor, const std::vector<std::size_t>& sizes)
      : weights(executor, total(sizes)), slopes(executor, total(sizes)), params(executor) {
    std::size_t at = 0;
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      params.add("tensor " + std::to_string(k), weights.data() + at,
                 {static_cast<std::int64_t>(sizes[k])});
      at += padded(sizes[k]);
    }
    gradients = std::make_unique<polyak::cuda::Gradients<float>>(params);
    at = 0;
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      gradients->set_at(k, std::span(slopes.data() + at, sizes[k]));
      at += padded(sizes[k]);
    }
  }
  static std::size_t padded(std::size_t size) { return (size + 63) / 64 * 64; }
  static std::size_t total(const std::vector<std::size_t>& sizes) {
    std::size_t sum = 0;
    for (const std::size_t size : sizes) sum += padded(size);
    return sum;
  }
  Buffer weights, slopes;
  polyak::cuda::Parameters<float> params;
  std::unique_ptr<polyak::cuda::Gradients<float>> gradients;
};

struct Row {
  std::string name;
  double bytes;  ///< read and written
  std::function<void()> step;
  std::vector<float> times = {};
};

/// Rounds in turns, and the table. Returns the copy's bytes per millisecond.
void measure(const polyak::cuda::Executor& executor, std::vector<Row>& rows, int rounds) {
  Timer timer(executor.stream());
  for (Row& row : rows) {
    row.step();  // uploads tables
    row.step();
  }
  executor.synchronize();
  for (int round = 0; round < rounds; ++round) {
    for (Row& row : rows) row.times.push_back(timer(row.step));
  }
  const double copy = rows.front().bytes / median(rows.front().times);
  for (const Row& row : rows) {
    const double rate = row.bytes / median(row.times);
    std::printf("| %-32s | %9.4f ms | %8.1f GB/s | %5.3f |\n", row.name.c_str(), median(row.times),
                rate * 1e-6, rate / copy);
  }
}

Row copy_row(Model& model) {
  const std::size_t bytes = model.weights.bytes();
  auto* const space = model.params.layout()->space.get();
  return {"copy within the device", 2.0 * static_cast<double>(bytes), [&model, space, bytes] {
            space->copy(model.slopes.data(), model.weights.data(), bytes);
          }};
}

void table(const char* title) {
  std::printf("\n%s\n\n| %-32s | %12s | %13s | %5s |\n|---|---|---|---|\n", title, "step", "time",
              "bandwidth", "copy");
}

/// Methods take turns in memory: each has its own scope.
template <class Make>
void one_case(const polyak::cuda::Executor& executor, Model& model, const char* name, double words,
              int rounds, Make make) {
  auto methods = make(model.params);
  std::vector<Row> rows;
  rows.push_back(copy_row(model));
  rows.push_back(
      {name, 4 * words * static_cast<double>(model.params.elements()), [&] {
         std::apply(
             [&](auto&... m) { polyak::step(executor, model.params, *model.gradients, m...); },
             methods);
       }});
  measure(executor, rows, rounds);
}

void bandwidths(const polyak::cuda::Executor& executor, std::size_t elements, int rounds) {
  table(
      ("One tensor of " + std::to_string(elements) + " floats; each step after its copy").c_str());
  Model model(executor, {elements});
  {
    polyak::Ema average(model.params);
    average.update(model.params);
    std::vector<Row> rows;
    rows.push_back(copy_row(model));
    rows.push_back({"Ema", 12.0 * static_cast<double>(elements),
                    [&] { polyak::update(executor, model.params, average); }});
    measure(executor, rows, rounds);
  }
  one_case(executor, model, "AdamW", 7, rounds,
           [](const auto& p) { return std::tuple(polyak::AdamW(p)); });
  one_case(executor, model, "AdamW and two Emas", 11, rounds, [](const auto& p) {
    return std::tuple(polyak::AdamW(p), polyak::Ema(p, {.decay = 0.999}),
                      polyak::Ema(p, {.decay = 0.9999}));
  });
  one_case(executor, model, "AdEMAMix", 9, rounds,
           [](const auto& p) { return std::tuple(polyak::AdEMAMix(p)); });
  one_case(executor, model, "ScheduleFreeAdamW", 7, rounds,
           [](const auto& p) { return std::tuple(polyak::ScheduleFreeAdamW(p)); });
}

/// A whole model by one launch, and by one for each tensor.
void lists(const polyak::cuda::Executor& executor, const char* name,
           const std::vector<std::size_t>& sizes, int rounds) {
  table((std::string(name) + ", " + std::to_string(sizes.size()) + " tensors: AdamW").c_str());
  Model model(executor, sizes);
  polyak::AdamW optimizer(model.params);
  std::vector<std::unique_ptr<polyak::cuda::Parameters<float>>> singles;
  std::vector<std::unique_ptr<polyak::cuda::Gradients<float>>> slopes;
  std::vector<std::unique_ptr<polyak::AdamW<polyak::cuda::Device<float>>>> optimizers;
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    singles.push_back(std::make_unique<polyak::cuda::Parameters<float>>(executor));
    singles.back()->add("tensor", model.params[k].data(), {static_cast<std::int64_t>(sizes[k])});
    slopes.push_back(std::make_unique<polyak::cuda::Gradients<float>>(*singles.back()));
    slopes.back()->set("tensor", (*model.gradients)[k]);
    optimizers.push_back(
        std::make_unique<polyak::AdamW<polyak::cuda::Device<float>>>(*singles.back()));
  }
  const double bytes = 28.0 * static_cast<double>(model.params.elements());
  std::vector<Row> rows;
  rows.push_back(copy_row(model));
  rows.push_back({"one launch", bytes,
                  [&] { polyak::step(executor, model.params, *model.gradients, optimizer); }});
  rows.push_back({"one launch per tensor", bytes, [&] {
                    for (std::size_t k = 0; k < sizes.size(); ++k) {
                      polyak::step(executor, *singles[k], *slopes[k], *optimizers[k]);
                    }
                  }});
  polyak::AdamW with_averages(model.params);
  polyak::Ema slow(model.params, {.decay = 0.9999}), fast(model.params, {.decay = 0.999});
  rows.push_back(
      {"AdamW and two Emas, one launch", 44.0 * static_cast<double>(model.params.elements()),
       [&] { polyak::step(executor, model.params, *model.gradients, with_averages, slow, fast); }});
  measure(executor, rows, rounds);
  std::printf("\none launch is %.1f times as fast\n",
              median(rows[2].times) / median(rows[1].times));

  // The host's time for a call, while the device has no work to wait for.
  std::vector<float> costs;
  for (int round = 0; round < 200; ++round) {
    executor.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    polyak::step(executor, model.params, *model.gradients, optimizer);
    const std::chrono::duration<float, std::micro> cost = std::chrono::steady_clock::now() - begin;
    costs.push_back(cost.count());
  }
  std::printf("a call of step() costs the host %.2f microseconds\n", median(costs));

  // The scalars of a captured step: from the device against from the launch.
  polyak::cuda::CapturedStep captured(executor, model.params, *model.gradients, optimizer);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replayed = nullptr;
  polyak::cuda::detail::check(
      cudaStreamBeginCapture(executor.stream(), cudaStreamCaptureModeThreadLocal),
      "cudaStreamBeginCapture");
  captured.record();
  polyak::cuda::detail::check(cudaStreamEndCapture(executor.stream(), &graph),
                              "cudaStreamEndCapture");
  polyak::cuda::detail::check(cudaGraphInstantiate(&replayed, graph, 0), "cudaGraphInstantiate");
  std::vector<Row> ways;
  ways.push_back(copy_row(model));
  ways.push_back({"scalars with the launch", bytes,
                  [&] { polyak::step(executor, model.params, *model.gradients, optimizer); }});
  ways.push_back({"scalars from the device, replayed", bytes, [&] {
                    captured.prepare();
                    static_cast<void>(cudaGraphLaunch(replayed, executor.stream()));
                  }});
  table("The same step in a graph");
  measure(executor, ways, rounds);
  static_cast<void>(cudaGraphExecDestroy(replayed));
  static_cast<void>(cudaGraphDestroy(graph));
}

[[nodiscard]] std::vector<std::size_t> sizes_of(const polyak_bench::Case& list) {
  std::vector<std::size_t> sizes;
  for (const auto& tensor : list.tensors) sizes.push_back(tensor.size());
  return sizes;
}

}  // namespace

int main(int count, char** arguments) {
  std::size_t elements = std::size_t{1} << 30;
  int rounds = 31;
  for (int k = 1; k < count; ++k) {
    if (std::strcmp(arguments[k], "--elements") == 0 && k + 1 < count) {
      elements = std::strtoull(arguments[++k], nullptr, 10);
    } else if (std::strcmp(arguments[k], "--rounds") == 0 && k + 1 < count) {
      rounds = std::atoi(arguments[++k]);
    } else {
      std::printf("usage: polyak_cuda_bench [--elements N] [--rounds N]\n");
      return std::strcmp(arguments[k], "--help") == 0 ? 0 : 2;
    }
  }
  if (elements < 1 || rounds < 1) {
    std::fprintf(stderr, "polyak_cuda_bench: --elements and --rounds must be at least 1\n");
    return 2;
  }
  cudaStream_t stream = nullptr;  // one that can be captured
  std::unique_ptr<polyak::cuda::Executor> executor;
  try {
    executor = std::make_unique<polyak::cuda::Executor>();
    polyak::cuda::detail::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                                "cudaStreamCreateWithFlags");
    executor = std::make_unique<polyak::cuda::Executor>(stream);
  } catch (const polyak::cuda::error& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }
  try {
    cudaDeviceProp device{};
    polyak::cuda::detail::check(cudaGetDeviceProperties(&device, executor->device()),
                                "cudaGetDeviceProperties");
    std::printf(
        "%s, %zu MiB; medians of %d rounds; the last column is the share of the copy's bandwidth\n",
        device.name, device.totalGlobalMem >> 20, rounds);
    while (elements > 1024 && 24 * elements > device.totalGlobalMem / 10 * 9) elements /= 2;
    bandwidths(*executor, elements, rounds);
    lists(*executor, "GPT-2 124M", sizes_of(polyak_bench::gpt2()), rounds);
    lists(*executor, "ResNet-50", sizes_of(polyak_bench::resnet50()), rounds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "polyak_cuda_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
