// SPDX-License-Identifier: Apache-2.0
// polyak/cuda/reduce.hpp: the bits of the host's reductions, at every alignment. For the emulation
// alone: nvcc does not compile the host's loops.
#include <polyak/core/reduce.hpp>
#include <polyak/cuda/fold_grid.hpp>
#include <polyak/cuda/reduce.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/clip.hpp>
#include <polyak/cuda/clip.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace device_tests::reduce_test {

using namespace polyak;

namespace {

/// The same weights and gradients on the host and on the device, there `lead` elements behind a
/// multiple of 256 bytes.
template <class P>
struct Both {
  cuda::Executor executor;
  std::vector<std::vector<P>> values;
  std::vector<cuda::Buffer<P>> buffers;
  Parameters<P> params;
  cuda::Parameters<P> device{executor};
  std::vector<std::size_t> skipped;

  Both(const std::vector<Shape>& shapes, Order order, std::size_t lead) {
    values.reserve(2 * shapes.size());
    for (std::size_t k = 0; k < 2 * shapes.size(); ++k) {
      const Shape& shape = shapes[k / 2];
      std::vector<P> numbers(polyak::detail::elements_of(shape, "w") + lead);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = static_cast<P>(bits::uniform(i, k) + 0.25);
      }
      buffers.emplace_back(executor, std::span<const P>(numbers));
      numbers.erase(numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(lead));
      values.push_back(std::move(numbers));
      if (k % 2 == 0) {
        const std::string name = "w" + std::to_string(k / 2);
        params.add(name, values[k].data(), shape, Role::average, order);
        device.add(name, address(k, lead), shape, Role::average, order);
      }
    }
  }
  [[nodiscard]] P* address(std::size_t k, std::size_t lead) {
    return values[k].empty() ? nullptr : buffers[k].data() + lead;
  }
};

template <class R, class S>
std::size_t differing(std::span<const R> host, const std::vector<S>& device) {
  if (host.size() != device.size()) return host.size() + 1;
  std::size_t count = 0;
  for (std::size_t k = 0; k < host.size(); ++k) {
    if (host[k] != device[k] && bits::of(host[k]) != bits::of(static_cast<R>(device[k]))) ++count;
  }
  return count;
}

constexpr ReductionOptions all_options[] = {
    {Per::list, MatrixView::first_by_rest}, {Per::tensor, MatrixView::first_by_rest},
    {Per::row, MatrixView::first_by_rest},  {Per::column, MatrixView::first_by_rest},
    {Per::row, MatrixView::last_two},       {Per::column, MatrixView::last_two}};

template <class P>
void check(const std::vector<Shape>& shapes, Order order, std::size_t lead) {
  Both<P> both(shapes, order, lead);
  Gradients<P> gradients(both.params);
  cuda::Gradients<P> there(both.device);
  for (std::size_t k = 0; k < shapes.size(); ++k) {
    if (k == 1 || both.values[2 * k].empty()) continue;  // has no gradient
    const std::string name = both.params[k].name();
    gradients.set(name, both.values[2 * k + 1].data());
    there.set(name, static_cast<const P*>(both.address(2 * k + 1, lead)));
  }
  for (const ReductionOptions& options : all_options) {
    INFO("per " << static_cast<int>(options.per) << ", view " << static_cast<int>(options.view)
                << ", lead " << lead << ", order " << static_cast<int>(order));
    {
      polyak::Reduction<Norm> norms(both.params, options);
      cuda::Reduction<Norm, P> device(both.executor, both.device, options);
      device(both.device);
      CHECK(differing(norms(serial, both.params), device.read()) == 0);
      device(there);
      CHECK(differing(norms(serial, gradients), device.read()) == 0);
    }
    {
      polyak::Reduction<Variance> variances(both.params, options);
      cuda::Reduction<Variance, P> device(both.executor, both.device, options);
      device(there);
      CHECK(differing(variances(serial, gradients), device.read()) == 0);
    }
    {
      polyak::Reduction<Cosine> cosines(both.params, options);
      cuda::Reduction<Cosine, P, P> device(both.executor, both.device, options);
      device(both.device, there);
      CHECK(differing(cosines(serial, both.params, gradients), device.read()) == 0);
    }
  }
}

const std::vector<Shape> shapes{{5},    {70, 129},      {0},    {3, 5, 7}, {4099}, {257, 3},
                                {4, 0}, {2, 3, 4, 103}, {1, 40}};

}  // namespace

TEMPLATE_TEST_CASE("reductions on a device have the bits of the host", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for (const Order order : {Order::row_major, Order::column_major}) {
    check<TestType>(shapes, order, 0);
    check<TestType>(shapes, order, 1);
    check<TestType>(shapes, order, 16 / sizeof(TestType));
  }
}

TEST_CASE("a long tensor on a device is reduced in several levels of blocks") {
  check<float>({{300'000}, {17'000, 3}}, Order::row_major, 1);
}

TEMPLATE_TEST_CASE("reductions on a device read gradients like a step", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  Both<P> both(shapes, Order::row_major, 1);
  Gradients<P> here(both.params);
  cuda::Gradients<P> there(both.device);
  for (std::size_t k = 0; k < shapes.size(); ++k) {
    if (both.values[2 * k].empty()) continue;
    const std::string name = both.params[k].name();
    here.set(name, both.values[2 * k + 1].data());
    there.set(name, static_cast<const P*>(both.address(2 * k + 1, 1)));
  }
  const double infinity = std::numeric_limits<double>::infinity();
  for (const ReductionOptions& options : all_options) {
    polyak::Reduction<Norm> norms(here, options);
    polyak::Reduction<Variance> variances(here, options);
    polyak::Reduction<Cosine> cosines(both.params, options);
    cuda::Reduction<Norm, P> device_norms(both.executor, there, options);
    cuda::Reduction<Variance, P> device_variances(both.executor, there, options);
    cuda::Reduction<Cosine, P, P> device_cosines(both.executor, both.device, options);
    for (const auto& [scale, limit, clips] :
         std::vector<std::tuple<double, double, bool>>{{0.5, infinity, false},
                                                       {1.0 / 3, 0.25, false},
                                                       {1, 0.125, true},
                                                       {0.7, 0.3, true},
                                                       {1, infinity, false}}) {
      INFO("scale " << scale << ", limit " << limit << ", per " << static_cast<int>(options.per)
                    << ", view " << static_cast<int>(options.view));
      here.scale(scale).clip_value(limit);
      there.scale(scale).clip_value(limit);
      if (clips) {
        const double norm = clip_norm(here, 1.5);
        CHECK(bits::of(clip_norm(both.executor, there, 1.5).read_norm()) == bits::of(norm));
        CHECK(here.clip_coefficient() < 1);
      }
      device_norms(there);
      CHECK(differing(norms(serial, here), device_norms.read()) == 0);
      device_variances(there);
      CHECK(differing(variances(serial, here), device_variances.read()) == 0);
      device_cosines(both.device, there);
      CHECK(differing(cosines(serial, both.params, here), device_cosines.read()) == 0);
      // The weights, and gradients as they lie in memory, do not take the scale of the last call.
      device_norms(both.device);
      CHECK(differing(norms(serial, both.params), device_norms.read()) == 0);
      device_norms(stream_of(there));
      CHECK(differing(norms(serial, stream_of(here)), device_norms.read()) == 0);
    }
    CHECK(bits::of(norm(both.executor, there)) == bits::of(norm(here)));
  }
}

TEST_CASE("slots of another type than the weights can be reduced on a device") {
  Both<Eigen::bfloat16> both({{40}, {3, 1500}}, Order::row_major, 0);
  Slots<float> here(both.params.layout(), DType::bfloat16, Kept::averaged, {"first"});
  Slots<float> there(both.device.layout(), DType::bfloat16, Kept::averaged, {"first"});
  for (std::size_t k = 0; k < 2; ++k) {
    std::size_t i = 0;
    for (float& value : here.tensor(0, k)) value = static_cast<float>(bits::uniform(++i, 77));
    polyak::detail::write_bytes(there.space(), there.address(0, k), here.address(0, k),
                                here.bytes(0, k));
  }
  polyak::Reduction<Dot> dots(both.params, {.per = Per::tensor});
  cuda::Reduction<Dot, Eigen::bfloat16, float> device(both.executor, both.device,
                                                      {.per = Per::tensor});
  device(both.device, stream_of(there, 0));
  CHECK(differing(dots(serial, both.params, stream_of(here, 0)), device.read()) == 0);
}

TEST_CASE("reductions on a device handle NaN and infinity") {
  const cuda::Executor executor;
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    std::vector<float> numbers(5000, 1.0f);
    numbers[4321] = static_cast<float>(-bad);
    const cuda::Buffer<float> buffer(executor, std::span<const float>(numbers));
    cuda::Parameters<float> params(executor);
    params.add("w", buffer.data(), {5000});
    cuda::Reduction<MaxAbs, float> largest(executor, params);
    largest(params);
    CHECK(bits::of(largest.read()[0]) == bits::of(bad));
    cuda::Reduction<AllFinite, float> finite(executor, params);
    finite(params);
    CHECK_FALSE(finite.read()[0]);
    CHECK(bits::of(norm(executor, params)) == bits::of(bad));
  }
}

TEST_CASE("a reduction on a device refuses other lists") {
  Both<float> both({{4}}, Order::row_major, 0), other({{5}}, Order::row_major, 0);
  cuda::Reduction<Norm, float> norms(both.executor, both.device);
  CHECK(refuses([&] { norms(other.device); }, {"reduc", "memory"}));
  CHECK(refuses([&] { norms(both.params); }, {"reduc", "memory"}));
  CHECK(refuses([&] { norms(both.values[0]); }, {"lists of the device"}));
}

TEST_CASE("a reduction on a device can be moved but not copied") {
  static_assert(!std::is_copy_constructible_v<cuda::Reduction<Norm, float>>);
  static_assert(!std::is_copy_assignable_v<cuda::Reduction<Norm, float>>);
  static_assert(!std::is_copy_constructible_v<cuda::ClipWorkspace<float>>);
  Both<float> both({{4}, {70, 129}}, Order::row_major, 0);
  cuda::Reduction<Norm, float> first(both.executor, both.device);
  first(both.device);
  cuda::Reduction<Norm, float> norms = std::move(first);
  CHECK(norms.read() == std::vector{norm(both.params)});
  norms(both.device);
  CHECK(norms.read() == std::vector{norm(both.params)});
}

}  // namespace device_tests::reduce_test
