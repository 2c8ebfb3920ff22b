// SPDX-License-Identifier: Apache-2.0
// Must not compile: see CMakeLists.txt.
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>

using Device = polyak::cuda::Device<float>;
struct Whole : polyak::Elementwise<Whole, polyak::AdamFamilyRule<true>, Device, float> {
  explicit Whole(const polyak::Parameters<Device>& params) : Elementwise(params, {}, {}) {}
  static constexpr bool host_only = true;
};

int main() {
  const polyak::cuda::Executor executor;
  polyak::cuda::Parameters<float> params(executor);
  Whole whole(params);
  polyak::step(executor, params, polyak::cuda::Gradients<float>(params), whole);
}
