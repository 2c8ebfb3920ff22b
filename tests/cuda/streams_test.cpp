// SPDX-License-Identifier: Apache-2.0
// polyak/cuda/streams.hpp: laws over lists and buffers on a device have the bits of the host, for
// all types, alignments and sizes; nothing else is written.
#include <polyak/cuda/stream_grid.hpp>
#include <polyak/cuda/streams.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/sum.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/stream.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/merge/linear.hpp>
#include <polyak/merge/merge_as_decay.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/numbers.hpp"
#include "../support/refuses.hpp"
#include "../support/stream_laws.hpp"
#include "graph.hpp"
#include "twin.hpp"

namespace device_tests::streams_test {

using namespace polyak;
using stream_laws::Follow;
using stream_laws::TwoOfThree;
using stream_laws::WeighedByStreams;

namespace {

constexpr std::size_t margin = 9;

/// Fills an output from nothing.
struct One {
  using Value = float;
  static constexpr LawStreams streams{.outputs = 1, .inputs = 0};
  template <class V>
  POLYAK_LAW void operator()(V& out) const {
    out = V(1);
  }
};

/// Numbers on the host and the same on a device, `lead` elements behind a multiple of 256 bytes,
/// with a margin behind them.
template <class T>
struct Twin {
  std::vector<T> numbers;
  cuda::Buffer<T> buffer;
  std::size_t lead, count;

  Twin(const cuda::Executor& executor, std::size_t size, std::size_t place, std::uint64_t seed)
      : numbers(made(size + place + margin, seed)),
        buffer(executor, std::span<const T>(numbers)),
        lead(place),
        count(size) {}
  [[nodiscard]] std::span<T> here() { return {numbers.data() + lead, count}; }
  [[nodiscard]] std::span<T> there() const { return {buffer.data() + lead, count}; }
  void put(std::size_t i, double value) {
    numbers[lead + i] = static_cast<T>(static_cast<float>(value));
    buffer.upload(numbers);
  }
  /// Whether both have the same bits, margins included.
  [[nodiscard]] bool agrees() const {
    const std::vector<T> copy = buffer.download();
    return bits::difference(copy.data(), numbers.data(), 0, copy.size()) == copy.size();
  }

 private:
  [[nodiscard]] static std::vector<T> made(std::size_t size, std::uint64_t seed) {
    std::vector<T> all(size);
    for (std::size_t k = 0; k < size; ++k) {
      all[k] = static_cast<T>(static_cast<float>(1.5 + bits::uniform(k, seed)));
    }
    return all;
  }
};

/// A list on both sides, of tensors that each have a buffer of their own.
template <class P>
struct TwinList {
  std::vector<Twin<P>> memory;
  Parameters<P> here;
  cuda::Parameters<P> there;

  TwinList(const cuda::Executor& executor, const std::vector<Shape>& shapes, std::uint64_t seed,
           std::size_t lead = 0)
      : there(executor) {
    memory.reserve(shapes.size());
    for (std::size_t k = 0; k < shapes.size(); ++k) {
      const std::string name = "w" + std::to_string(k);
      const std::size_t size = polyak::detail::elements_of(shapes[k], name);
      memory.emplace_back(executor, size, lead, seed + 100 * k);
      const Role role = k == 1 ? Role::ignore : k == 3 ? Role::copy : Role::average;
      here.add(name, memory[k].here().data(), shapes[k], role);
      there.add(name, memory[k].there().data(), shapes[k], role);
    }
  }
  [[nodiscard]] bool agrees() const {
    for (const Twin<P>& tensor : memory) {
      if (!tensor.agrees()) return false;
    }
    return true;
  }
};

const std::vector<Shape> shapes{{5}, {70}, {0}, {33}, {7, 600}, {1}};

template <class T, class A, class B, class X, class Y, class Z>
void check_fixed() {
  const cuda::Executor executor;
  for (const std::size_t size : {0U, 1U, 7U, 31U, 33U, 100U, 1500U, 9001U}) {
    for (const std::size_t lead : {0U, 1U, 8U}) {
      INFO("size " << size << ", lead " << lead);
      Twin<X> x(executor, size, lead, 1);
      Twin<Y> y(executor, size, 0, 2);
      Twin<Z> z(executor, size, lead, 3);
      Twin<A> a(executor, size, lead, 4);
      Twin<B> b(executor, size, 2 * lead, 5);
      const TwoOfThree<T> law{static_cast<T>(0.3)};
      sweep_streams(serial, law, writes(a.here(), b.here()), reads(x.here(), y.here(), z.here()));
      sweep_streams(executor, law, writes(a.there(), b.there()),
                    reads(x.there(), y.there(), z.there()));
      CHECK((a.agrees() && b.agrees()));
      const Follow<T> follow{static_cast<T>(0.25)};
      sweep_streams(serial, follow, writes(a.here(), b.here()), reads(y.here()));
      sweep_streams(executor, follow, writes(a.there(), b.there()), reads(y.there()));
      CHECK((a.agrees() && b.agrees()));
      CHECK((x.agrees() && y.agrees() && z.agrees()));
    }
  }
}

template <class T, class Out, class In>
void check_merge() {
  const cuda::Executor executor;
  for (const std::size_t terms : {1U, 2U, 7U, 40U}) {
    for (const std::size_t size : {33U, 5000U}) {
      INFO(terms << " terms of " << size << " elements");
      std::vector<Twin<In>> inputs;
      std::vector<std::span<In>> here, there;
      std::vector<double> weights;
      for (std::size_t k = 0; k < 2 * terms; ++k) {
        inputs.emplace_back(executor, size, k % 3, 10 + k);
        here.push_back(inputs.back().here());
        there.push_back(inputs.back().there());
        if (k % 2 == 0) weights.push_back(0.5 + static_cast<double>(k));
      }
      Twin<Out> mean(executor, size, 1, 1), total(executor, size, 0, 2);
      const WeighedByStreams<T> law;
      merge_streams(serial, law, writes(mean.here(), total.here()), here, weights);
      merge_streams(executor, law, writes(mean.there(), total.there()), there, weights);
      CHECK((mean.agrees() && total.agrees()));
      weights.resize(2 * terms, -0.5);
      const WeightedSumLaw<T> sum;
      merge_streams(serial, sum, writes(total.here()), here, weights);
      merge_streams(executor, sum, writes(total.there()), there, weights);
      CHECK(total.agrees());
    }
  }
}

template <class P>
void check_average() {
  const cuda::Executor executor;
  for (const std::size_t models : {1U, 2U, 7U, 40U}) {
    for (const bool fails : {false, true}) {
      INFO(models << " models");
      std::vector<TwinList<P>> lists;
      std::vector<const Parameters<P>*> here;
      std::vector<const cuda::Parameters<P>*> there;
      lists.reserve(models);
      for (std::size_t k = 0; k < models; ++k) {
        lists.emplace_back(executor, shapes, k, k % 2);
        here.push_back(&lists.back().here);
        there.push_back(&lists.back().there);
      }
      if (fails) {
        lists[models / 2].memory[0].put(1, infinity);
        lists[models / 3].memory[4].put(77, nan_value);
        lists[0].memory[4].put(4000, -infinity);
      }
      TwinList<P> target(executor, shapes, 1000);
      std::vector<double> weights(models, 0);
      weights[models / 2] = 0.25;  // those before it have no weight
      weights.back() += 0.75;
      average_n(target.here, here, weights);
      average_n(executor, target.there, there, weights);
      CHECK(target.agrees());
      weights.back() = -3;
      average_n(target.here, here, weights);
      average_n(target.there, there, weights);  // where the list is
      CHECK(target.agrees());
      weights.assign(models, 1.0 / static_cast<double>(models));
      average_n(*here.back(), here, weights);  // over an input
      average_n(executor, *there.back(), there, weights);
      for (const TwinList<P>& list : lists) CHECK(list.agrees());
    }
  }
}

}  // namespace

TEST_CASE("a sweep over streams on a device has the host's bits: one type") {
  check_fixed<float, float, float, float, float, float>();
  check_fixed<double, double, double, double, double, double>();
  check_fixed<float, Eigen::half, Eigen::half, Eigen::half, Eigen::half, Eigen::half>();
}

TEST_CASE("a sweep over streams on a device has the host's bits: several types") {
  check_fixed<float, Eigen::bfloat16, float, Eigen::half, float, Eigen::bfloat16>();
  check_fixed<double, float, double, float, Eigen::half, double>();
  check_fixed<double, Eigen::bfloat16, Eigen::half, double, float, Eigen::bfloat16>();
}

TEST_CASE("a merge of any number of terms on a device has the host's bits") {
  check_merge<float, float, float>();
  check_merge<float, Eigen::bfloat16, Eigen::half>();
  check_merge<double, float, float>();
  check_merge<double, double, double>();
}

TEMPLATE_TEST_CASE("average_n on a device has the host's bits, also where it fails", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_average<TestType>();
}

TEMPLATE_TEST_CASE("soft_update on a device has the host's bits", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  const cuda::Executor executor;
  TwinList<TestType> target(executor, shapes, 1), online(executor, shapes, 2, 3);
  for (const Accumulate accumulate : {Accumulate::plain, Accumulate::stochastic}) {
    if (accumulate == Accumulate::stochastic && sizeof(TestType) != 2) continue;
    const SoftUpdateOptions options{.accumulate = accumulate, .seed = 5, .call = 6};
    for (const double tau : {0.005, 0.7, 0.0, 1.0}) {
      soft_update(target.here, online.here, tau, options);
      soft_update(executor, target.there, online.there, tau, options);
      CHECK(target.agrees());
    }
  }
  CHECK(online.agrees());
  CHECK(bits::bytes(target.memory[1].numbers) != bits::bytes(online.memory[1].numbers));
}

TEST_CASE("merge_as_decay on a device has the host's bits") {
  const cuda::Executor executor;
  TwinList<float> target(executor, shapes, 1), x0(executor, shapes, 2), x1(executor, shapes, 3),
      x2(executor, shapes, 4);
  const auto multipliers = decay_multipliers(CooldownCurve::one_minus_sqrt, 2);
  merge_as_decay(target.here, {x0.here, x1.here, x2.here}, multipliers);
  merge_as_decay(executor, target.there, {x0.there, x1.there, x2.there}, multipliers);
  CHECK(target.agrees());
}

TEST_CASE("average_n on a device takes buffers and addresses") {
  const cuda::Executor executor;
  std::vector<Twin<Eigen::half>> inputs;
  for (std::uint64_t k = 0; k < 3; ++k) inputs.emplace_back(executor, 50, 0, k);
  const std::array weights{0.5, 0.25, 0.25};
  std::vector<float> here(50 + margin);
  average_n(
      here,
      std::array{inputs[0].numbers.data(), inputs[1].numbers.data(), inputs[2].numbers.data()},
      weights);
  cuda::Buffer<float> there(executor, 50 + margin), again(executor, 50 + margin);
  average_n(executor, there,
            std::array{inputs[0].buffer.data(), inputs[1].buffer.data(), inputs[2].buffer.data()},
            weights);
  CHECK(there.download() == here);
  for (const std::size_t number : {1U, 100U}) {  // of one model, which is their mean
    const std::vector<const Eigen::half*> same(number, inputs[0].buffer.data());
    average_n(executor, there, same, std::vector<double>(number, 1 / static_cast<double>(number)));
    for (std::size_t i = 0; i < here.size(); ++i) {
      CHECK(there.download()[i] == static_cast<float>(inputs[0].numbers[i]));
    }
  }
  std::vector<cuda::Buffer<Eigen::half>> buffers;
  for (Twin<Eigen::half>& input : inputs) buffers.push_back(std::move(input.buffer));
  average_n(executor, again, buffers, weights);
  CHECK(again.download() == here);
}

TEST_CASE("outputs on a device may be inputs, or be filled from nothing") {
  const cuda::Executor executor;
  for (const std::size_t lead : {0U, 1U}) {
    Twin<float> x(executor, 3000, lead, 1), y(executor, 3000, 0, 2), z(executor, 3000, lead, 3);
    const TwoOfThree<float> law{2};
    sweep_streams(serial, law, writes(y.here(), x.here()), reads(x.here(), y.here(), z.here()));
    sweep_streams(executor, law, writes(y.there(), x.there()),
                  reads(x.there(), y.there(), z.there()));
    CHECK((x.agrees() && y.agrees() && z.agrees()));
    sweep_streams(serial, One{}, writes(x.here()), reads());
    sweep_streams(executor, One{}, writes(x.there()), reads());
    CHECK(x.agrees());
    CHECK(x.numbers[lead] == 1);
    sweep_streams(serial, law, writes(x.here(), y.here()), reads(y.here(), z.here(), z.here()));
    sweep_streams(executor, law, writes(x.there(), y.there()),  // with more streams, in a new table
                  reads(y.there(), z.there(), z.there()));
    CHECK((x.agrees() && y.agrees()));
  }
}

TEST_CASE("lists, gradients and slots on a device are streams") {
  Both both;
  Model<float> target({5, 70, 0, 33, 4200}, true);
  twin::OnDevice<float> target_there(both.executor, target.params, 3);
  Ema<float> here(both.model.params, {.decay = 0.5});
  Ema<cuda::Device<float>> there(both.device.params, {.decay = 0.5});
  for (std::uint64_t k = 0; k < 3; ++k) {
    both.model.wander(k);
    both.device.take_weights(both.model.params);
    update(both.model.params, here);
    update(both.executor, both.device.params, there);
    both.model.differentiate(k, {static_cast<std::size_t>(k)});
    both.device.take_gradients(both.model.params, both.model.gradients);
    const TwoOfThree<float> law{0.5F};
    const auto slot = stream_of(here.slots(), 0), slot_there = stream_of(there.slots(), 0);
    sweep_streams(serial, law, std::tuple_cat(writes(target.params), std::tuple(slot)),
                  reads(both.model.params, both.model.gradients, slot), named("tensor *"));
    sweep_streams(both.executor, law,
                  std::tuple_cat(writes(target_there.params), std::tuple(slot_there)),
                  reads(both.device.params, both.device.gradients, slot_there), named("tensor *"));
  }
  Model<float> untouched({5, 70, 0, 33, 4200}, true);
  CHECK(target.tensor_bytes(0) != untouched.tensor_bytes(0));
  for (std::size_t k = 0; k < 6; ++k) {
    CHECK(twin::differing<float>(target.tensor_bytes(k), target_there.tensor_bytes(k), 0) == 0);
  }
  Model<float> averaged({5, 70, 0, 33, 4200}, true);
  twin::OnDevice<float> averaged_there(both.executor, averaged.params);
  here.copy_to(averaged.params);
  there.copy_to(averaged_there.params);
  for (std::size_t k = 0; k < 6; ++k) {
    CHECK(twin::differing<float>(averaged.tensor_bytes(k), averaged_there.tensor_bytes(k), 0) == 0);
  }
}

TEST_CASE("a selection says which tensors on a device are swept") {
  const cuda::Executor executor;
  TwinList<float> target(executor, shapes, 1), first(executor, shapes, 2),
      second(executor, shapes, 3);
  const std::vector<const Parameters<float>*> here{&first.here, &second.here};
  const std::vector<const cuda::Parameters<float>*> there{&first.there, &second.there};
  const std::array weights{0.5, 2.0};
  const WeightedSumLaw<float> sum;
  merge_streams(serial, sum, writes(target.here), here, weights, Selection(matrices));
  merge_streams(executor, sum, writes(target.there), there, weights, Selection(matrices));
  CHECK(target.agrees());
  CHECK(target.memory[4].numbers[0] != Twin<float>(executor, 1, 0, 401).numbers[0]);
  sweep_streams(serial, One{}, writes(target.here), reads(), named("w5"));
  sweep_streams(executor, One{}, writes(target.there), reads(), named("w5"));
  CHECK(target.agrees());
  CHECK(target.memory[5].numbers[0] == 1);
  CHECK(target.memory[0].numbers[0] != 1);
}

TEST_CASE("a sweep over thousands of tensors on a device is one launch, without wait or copy") {
  const cuda::Executor executor;
  const std::vector<Shape> many(3000, Shape{3});
  TwinList<float> target(executor, many, 1), online(executor, many, 2), other(executor, many, 3);
  const auto merge = [&] {
    average_n(executor, target.there, {online.there, other.there}, std::array{0.5, 0.5});
  };
  merge();
  soft_update(executor, target.there, online.there, 0.5);
  const auto launches = executor.launches();
#if defined(POLYAK_CUDA_EMULATION)
  const auto calls = emulation::machine().calls;
#endif
  merge();
  CHECK(executor.launches() - launches == 1);
  soft_update(executor, target.there, online.there, 0.5);
  CHECK(executor.launches() - launches == 3);  // and a copied buffer
  soft_update(executor, target.there, other.there, 0.5);
#if defined(POLYAK_CUDA_EMULATION)
  for (const char* const call : {"cudaHostAlloc", "cudaStreamSynchronize", "cudaMemcpyAsync"}) {
    // The addresses of the weights that moved are arguments; copies of buffers have a new table.
    CHECK(emulation::machine().calls[call] - calls.at(call) <=
          (std::string(call) == "cudaHostAlloc" ? 0 : 1));
  }
#endif
  for (int k = 0; k < 2; ++k) {
    average_n(target.here, {online.here, other.here}, std::array{0.5, 0.5});
    soft_update(target.here, online.here, 0.5);
  }
  soft_update(target.here, other.here, 0.5);
  CHECK(target.agrees());
}

TEST_CASE("a captured soft_update and average_n replay with what they were captured with") {
  const Stream stream;
  const cuda::Executor executor(stream);
  TwinList<float> target(executor, shapes, 1), online(executor, shapes, 2),
      other(executor, shapes, 3), soup(executor, shapes, 4);
  const auto both = [&](const auto& executed, const auto& to, const auto& mean, const auto& a,
                        const auto& b, double tau) {
    soft_update(executed, to, a, tau);
    average_n(executed, mean, {to, b}, std::array{tau, 1 - tau});
  };
  const auto here = [&](const auto& a, const auto& b, double tau) {
    both(serial, target.here, soup.here, a.here, b.here, tau);
  };
  const auto there = [&](const auto& a, const auto& b, double tau) {
    both(executor, target.there, soup.there, a.there, b.there, tau);
  };
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replayed = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK_THROWS_AS(there(online, other, 0.25), std::logic_error);  // it would upload a table
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  static_cast<void>(cudaGraphDestroy(graph));
  there(online, other, 0.5);
  here(online, other, 0.5);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  there(online, other, 0.25);
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&replayed, graph, 0) == cudaSuccess);
  static_cast<void>(cudaGraphDestroy(graph));
  for (int k = 0; k < 3; ++k) {
    REQUIRE(cudaGraphLaunch(replayed, stream) == cudaSuccess);
    here(online, other, 0.25);
    there(other, online, 0.125);  // other addresses, weights and scalars
    here(other, online, 0.125);
  }
  CHECK((target.agrees() && soup.agrees()));
  static_cast<void>(cudaGraphExecDestroy(replayed));
}

TEST_CASE("streams on a device that do not fit are rejected, and nothing is written") {
  const cuda::Executor executor, another;
  std::vector<float> host{1, 2, 3, 4};
  cuda::Buffer<float> a(executor, std::span<const float>(host)), b(executor, 4), c(executor, 4),
      d(executor, 4), shorter(executor, 3);
  const auto launches = executor.launches();
  const TwoOfThree<float> law{1};
  const auto sweep = [&](const auto& run_by, const auto& outputs, const auto& inputs) {
    return [&] { sweep_streams(run_by, law, outputs, inputs); };
  };
  CHECK(refuses(sweep(executor, writes(c, d), reads(a, b, shorter)),
                {"must have 4 elements", "got 3"}));
  TwinList<float> list(executor, shapes, 1), longer(executor, {{5}, {71}}, 2);
  CHECK(refuses(sweep(executor, writes(c, d), reads(a, b, list.there)),
                {"lists or arrays, not both"}));
  CHECK(refuses(
      sweep(executor, writes(list.there, list.there), reads(list.there, list.there, longer.there)),
      {"the streams of a sweep differ", "\"w2\" is missing"}));
  CHECK(refuses(sweep(executor, writes(c, c), reads(a, b, a)), {"overlaps output 1"}));
  const std::span<float> part(a.data(), 3), shifted(a.data() + 1, 3), e(b.data(), 3),
      f(d.data(), 3);
  CHECK(refuses(sweep(executor, writes(part, e), reads(f, shifted, f)), {"overlaps input 1"}));
  CHECK(refuses([&] { sweep_streams(executor, Follow<float>{1}, writes(c, d), reads(d)); },
                {"overlaps input 0"}));

  // Memory of the host, and of another executor.
  CHECK(refuses(sweep(executor, writes(c, d), reads(a, host, b)),
                {"input 1", "it is in the host's memory"}));
  CHECK(refuses(sweep(executor, writes(c, host), reads(a, b, b)),
                {"output 1", "it is in the host's memory"}));
  CHECK(refuses(sweep(another, writes(c, d), reads(a, b, b)),
                {"output 0 of a sweep and the executor are in different memory"}));
  CHECK(
      refuses(sweep(executor, writes(list.here, list.here), reads(list.here, list.here, list.here)),
              {"output 0 of a sweep and the executor are in different memory"}));
  CHECK(refuses(sweep(serial, writes(host, c), reads(host, host, host)),
                {"output 1 of a sweep and the executor are in different memory"}));
  CHECK(refuses(
      sweep(serial, writes(list.there, list.there), reads(list.there, list.there, list.there)),
      {"different memory"}));

  const WeightedSumLaw<float> sum;
  const auto merge = [&](const std::vector<const cuda::Buffer<float>*>& inputs,
                         const std::vector<double>& weights) {
    return [&, inputs, weights] { merge_streams(executor, sum, writes(c), inputs, weights); };
  };
  CHECK(refuses(merge({}, {}), {"inputs must be 1", "got 0"}));
  CHECK(refuses(merge({&a, &b}, {1}), {"weights must be 1", "got 1"}));
  CHECK(refuses(merge({&a, &b}, {1, nan_value}), {"weight 1", "finite as float32", "nan"}));
  CHECK(refuses(merge({&a, &shorter}, {1, 1}), {"4 elements", "got 3"}));
  CHECK(refuses(
      [&] {
        merge_streams(executor, WeighedByStreams<float>{}, writes(c, c), std::vector{&a, &b},
                      std::array{1.0});
      },
      {"a merge", "overlaps output 0"}));
  CHECK(refuses(
      [&] {
        average_n(executor, part, std::vector{shifted, f}, std::array{0.5, 0.5});
      },
      {"average_n", "overlaps input 0"}));
  const std::array<const cuda::Parameters<float>*, 1> one{&list.there};
  CHECK(refuses([&] { average_n(another, list.there, one, std::array{1.0}); },
                {"output 0 of average_n and the executor are in different memory"}));
  CHECK(refuses(
      [&] {
        average_n(c, std::vector{&host[0], &host[0]}, std::array{0.5, 0.5});
      },
      {"output 0 of average_n", "different memory"}));
  CHECK(executor.launches() == launches);
  CHECK(a.download() == host);
  CHECK(c.download() == std::vector<float>(4));

  Ema<cuda::Device<float>> ema(list.there, {.decay = 0.5});
  update(executor, list.there, ema);
  const auto guard = ema.swap_into(list.there);
  CHECK_THROWS_AS(writes(list.there), std::logic_error);
  CHECK_THROWS_AS(average_n(executor, list.there, one, std::array{1.0}), std::logic_error);
}

}  // namespace device_tests::streams_test
