// SPDX-License-Identifier: Apache-2.0
// Guards over objects that share their memory, as tensors of other libraries do.
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <polyak/polyak.hpp>

#include "../support/catch.hpp"

namespace shared_memory_test {

namespace {

using Memory = std::shared_ptr<std::vector<float>>;

/// A tensor of two numbers of another library. `memory` may be replaced.
class Tensor final : public polyak::detail::SharedObject {
 public:
  Memory memory = std::make_shared<std::vector<float>>(2, 0.0F);

  [[nodiscard]] std::shared_ptr<const polyak::detail::KeptMemory> keep() const override {
    struct Kept final : polyak::detail::KeptMemory {
      explicit Kept(Memory its) : memory(std::move(its)), begin(memory->data()) {}
      [[nodiscard]] bool intact() const noexcept override { return memory->data() == begin; }
      Memory memory;
      const float* begin;
    };
    return std::make_shared<Kept>(memory);
  }
  void check() const override {
    if (memory->size() != 2) throw std::invalid_argument("no longer a tensor of two numbers");
  }
  static bool read(const void* object, const polyak::TensorInfo& info, void** data,
                   polyak::Shape* shape) {
    const auto& memory = *static_cast<const Tensor*>(object)->memory;
    if (shape != nullptr) *shape = {static_cast<std::int64_t>(memory.size())};
    *data = const_cast<float*>(memory.data());
    return memory.size() == info.size;
  }
};

/// A tensor in a list of its own, with an average of 1 where the weight is 2.
struct Fixture {
  std::shared_ptr<Tensor> tensor = std::make_shared<Tensor>();
  polyak::Parameters<float> params = list(tensor);
  polyak::Ema<float> ema{params, {.decay = 0.5}};

  Fixture() {
    set(2);
    ema.update(params);
  }
  static polyak::Parameters<float> list(const std::shared_ptr<Tensor>& tensor) {
    polyak::Parameters<float> params;
    polyak::ParameterAccess<float>::add(
        params,
        {"w", {2}, polyak::Order::row_major, polyak::Role::average, polyak::DType::float32, 0},
        tensor->memory->data(), {tensor.get(), &Tensor::read, tensor});
    return params;
  }
  void set(float value) { tensor->memory->assign(2, value); }
  [[nodiscard]] float weight() const { return tensor->memory->at(1); }
  [[nodiscard]] float average() const { return ema.view()[0](1); }
};

}  // namespace

TEST_CASE("a tensor that moved under a guard gets its weights, and the average returns") {
  Fixture f;
  {
    const auto guard = f.ema.swap_into(f.params);
    REQUIRE(f.weight() == 1);
    f.tensor->memory = std::make_shared<std::vector<float>>(2, 7.0F);
  }
  CHECK(f.weight() == 2);
  CHECK(f.average() == 1);
  f.ema.update(f.params);
  CHECK(f.average() == 1.5F);
}

TEST_CASE("a tensor whose shared memory was freed under a guard is exchanged where it is") {
  Fixture f;
  {
    const auto guard = f.ema.swap_into(f.params);
    std::vector<float> other(2, 7.0F);
    f.tensor->memory->swap(other);  // what was kept is gone with `other`
  }
  CHECK(f.weight() == 2);
  CHECK(f.average() == 7);
}

TEST_CASE("a tensor of another shape is left alone, and the average returns from its memory") {
  Fixture f;
  {
    const auto guard = f.ema.swap_into(f.params);
    f.tensor->memory = std::make_shared<std::vector<float>>(3, 7.0F);
  }
  CHECK(f.weight() == 7);
  CHECK(f.average() == 1);
  CHECK_THROWS_WITH(f.ema.update(f.params), "no longer a tensor of two numbers");
  f.tensor->memory = std::make_shared<std::vector<float>>(2, 3.0F);
  f.ema.update(f.params);
  CHECK(f.average() == 2);
}

TEST_CASE("a guard keeps a shared tensor beyond the list and the average") {
  std::optional<polyak::SwapGuard> guard;
  Memory memory;
  {
    Fixture f;
    memory = f.tensor->memory;
    guard = f.ema.swap_into(f.params);
  }
  CHECK(memory->at(1) == 1);
  guard.reset();
  CHECK(memory->at(1) == 2);
}

}  // namespace shared_memory_test
