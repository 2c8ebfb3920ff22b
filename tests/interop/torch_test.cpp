// SPDX-License-Identifier: Apache-2.0
// Modules of LibTorch: their tensors, wherever they move, their gradients, steps and files.
#include <torch/torch.h>
#undef CHECK  // of glog, which LibTorch may have included

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/interop/torch.hpp>
#include <polyak/io.hpp>
#include <polyak/polyak.hpp>

#include "../support/allocations.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"
#include "../support/temporary_folder.hpp"

namespace torch_test {

namespace {

using polyak::Role;
namespace nn = ::torch::nn;
using ::torch::Tensor;

/// A module of any tensors.
struct BagImpl : nn::Module {
  Tensor weight(const std::string& name, Tensor tensor, bool trained = true) {
    return register_parameter(name, std::move(tensor), trained);
  }
  Tensor buffer(const std::string& name, Tensor tensor) {
    return register_buffer(name, std::move(tensor));
  }
};
TORCH_MODULE(Bag);

/// Two layers, BatchNorm before the second.
struct NetImpl : nn::Module {
  NetImpl() {
    ::torch::manual_seed(1);
    first = register_module("first", nn::Linear(6, 5));
    norm = register_module("norm", nn::BatchNorm1d(5));
    second = register_module("second", nn::Linear(nn::LinearOptions(5, 3).bias(false)));
  }
  Tensor forward(const Tensor& x) { return second(norm(::torch::tanh(first(x)))); }
  void backward(std::int64_t step) {
    ::torch::manual_seed(static_cast<std::uint64_t>(100 + step));
    const Tensor x = ::torch::randn({16, 6});
    zero_grad();
    (forward(x) - x.slice(1, 0, 3)).pow(2).mean().backward();
  }
  nn::Linear first{nullptr}, second{nullptr};
  nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Net);

/// The largest difference of two tensors.
double distance(const Tensor& a, const Tensor& b) {
  return (a.detach().to(::torch::kDouble) - b.detach().to(::torch::kDouble))
      .abs()
      .max()
      .item<double>();
}
Tensor values_of(const Tensor& tensor) { return tensor.detach().clone(); }

/// The average of a tensor, in its shape. For tensors in row-major order.
template <class Average>
Tensor average_of(const Average& average, const std::string& name, at::IntArrayRef shape) {
  const auto view = average.view()[name];
  return ::torch::from_blob(const_cast<float*>(view.data()), shape).clone();
}

void set_gradient(const Tensor& weight, const Tensor& gradient) {
  const_cast<Tensor&>(weight).mutable_grad() = gradient;
}

std::string not_averaged(const std::vector<polyak::TensorInfo>& tensors) {
  std::string words;
  for (const auto& tensor : tensors) {
    words += tensor.name + " " + std::string(polyak::name_of(tensor.role)) + "; ";
  }
  return words;
}

}  // namespace

TEST_CASE(
    "a module's tensors are listed under their names, with roles; undefined ones are left out") {
  Net net;
  net->first->bias.set_requires_grad(false);
  polyak::torch::Model model(net);
  const auto& params = model.parameters();
  CHECK(params.at("first.weight").shape() == polyak::Shape{5, 6});
  CHECK(params.at("first.weight").data() == net->first->weight.data_ptr<float>());
  CHECK(params.at("first.weight").info().role == Role::average);
  CHECK(params.at("norm.running_mean").info().role == Role::copy);
  CHECK(params.at("norm.num_batches_tracked").info().dtype == polyak::DType::int64);
  CHECK(params.size() == 8);  // without second.bias
  CHECK(not_averaged(model.not_averaged()) ==
        "first.bias frozen; norm.running_mean copy; norm.running_var copy; "
        "norm.num_batches_tracked copy; ");

  Bag bag;
  bag->weight("w", ::torch::ones({2}));
  bag->weight("absent", Tensor());
  bag->weight("steps", ::torch::ones({2}, ::torch::kInt), false);
  CHECK(not_averaged(polyak::torch::Model(bag).not_averaged()) == "steps copy; ");
  CHECK(polyak::torch::Model(*bag).parameters().size() == 2);
  CHECK(polyak::torch::Model(bag.ptr()).parameters().size() == 2);
  const nn::Module& base = *bag;
  CHECK(polyak::torch::Model(base).parameters().size() == 2);
}

TEST_CASE("AdamW and Ema on a module equal torch::optim::AdamW and lerp_") {
  Net net, twin;  // of the same seed
  REQUIRE(equal(net->first->weight, twin->first->weight));
  polyak::torch::Model model(net);
  polyak::AdamW adamw(model.parameters(), {.learning_rate = 1e-2, .weight_decay = 0.1});
  polyak::Ema ema(model.parameters(), {.decay = 0.9});
  ::torch::optim::AdamW reference(twin->parameters(),
                                  ::torch::optim::AdamWOptions(1e-2).weight_decay(0.1));
  std::vector<Tensor> averages;
  for (const Tensor& tensor : twin->parameters()) averages.push_back(values_of(tensor));
  for (int step = 0; step < 20; ++step) {
    net->backward(step);
    CHECK(model.step(adamw, ema));
    twin->backward(step);
    reference.step();
    const auto weights = twin->parameters();
    for (std::size_t k = 0; k < weights.size(); ++k) {
      averages[k].lerp_(weights[k].detach(), 1 - 0.9);
    }
  }
  CHECK(distance(net->first->weight, twin->first->weight) > 0);  // not the same memory
  std::size_t k = 0;
  for (const auto& item : twin->named_parameters()) {
    const Tensor mine = net->named_parameters()[item.key()];
    CAPTURE(item.key());
    CHECK(distance(mine, item.value()) < 1e-6);
    CHECK(distance(average_of(ema, item.key(), mine.sizes()), averages[k++]) < 1e-6);
  }
}

TEST_CASE("methods are used on the lists directly, with an executor, and without allocations") {
  Net net, twin, third;
  polyak::torch::Model model(net), other(twin), last(third);
  const auto options = polyak::AdamWOptions{.learning_rate = 1e-2};
  polyak::AdamW adamw(model.parameters(), options), also(other.parameters(), options);
  polyak::AdamW split(last.parameters(), options);
  polyak::Ema ema(model.parameters());
  const auto halves = [](std::size_t elements, auto&& range) {
    range(std::size_t{0}, elements / 2 / 64 * 64);
    range(elements / 2 / 64 * 64, elements);
  };
  for (int step = 0; step < 3; ++step) {
    net->backward(step);
    polyak::clip_norm(model.gradients(), 0.125);
    const allocations::Counter counter;
    const bool done = model.step(adamw, ema);
    const auto counts = counter.counts();
    CHECK(done);
    if (step > 0) CHECK(counts.number == 0);
    twin->backward(step);
    polyak::clip_norm(other.gradients(), 0.125);
    polyak::step(other.parameters(), other.gradients(), also);
    third->backward(step);
    polyak::clip_norm(last.gradients(), 0.125);
    last.step(halves, split);
  }
  CHECK(model.gradients().clip_coefficient() < 1);
  CHECK(equal(net->first->weight, twin->first->weight));
  CHECK(equal(net->first->weight, third->first->weight));
  const Tensor before = average_of(ema, "norm.weight", {5});
  CHECK(model.update(ema));
  CHECK_FALSE(equal(before, average_of(ema, "norm.weight", {5})));
}

TEST_CASE("a step after set_data() and torch::load() trains the tensors where they are") {
  Net net, twin;
  polyak::torch::Model model(net), other(twin);
  const auto& params = model.parameters();  // kept, as programs do
  polyak::AdamW adamw(params, {.learning_rate = 1e-2}),
      also(other.parameters(), {.learning_rate = 1e-2});
  polyak::Ema ema(params), average(other.parameters());
  const auto step = [&](std::int64_t k) {
    net->backward(k);
    twin->backward(k);
    model.step(adamw, ema);
    other.step(also, average);
  };
  step(0);
  std::stringstream file;
  ::torch::save(net, file);
  step(1);

  const void* const before = net->first->weight.data_ptr();
  const Tensor keep = net->first->weight.data();  // so that its address is not used again
  ::torch::load(net, file);
  REQUIRE(net->first->weight.data_ptr() != before);
  CHECK(params.at("first.weight").data() == net->first->weight.data_ptr<float>());
  CHECK(params.at("norm.running_mean").data() == net->norm->running_mean.data_ptr<float>());
  {  // the same without moving
    const ::torch::NoGradGuard no_graph;
    const auto values = net->named_parameters();
    for (const auto& item : twin->named_parameters()) item.value().copy_(values[item.key()]);
    const auto buffers = net->named_buffers();
    for (const auto& item : twin->named_buffers()) item.value().copy_(buffers[item.key()]);
  }
  step(2);
  net->second->weight.set_data(values_of(net->second->weight));
  step(3);
  CHECK(equal(net->first->weight, twin->first->weight));
  CHECK(equal(net->second->weight, twin->second->weight));
  CHECK(equal(average_of(ema, "second.weight", {3, 5}),
              average_of(average, "second.weight", {3, 5})));
  CHECK(
      equal(average_of(ema, "first.weight", {5, 6}), average_of(average, "first.weight", {5, 6})));
}

TEST_CASE("a guard restores weights and average although the tensors moved under it") {
  const bool wide = GENERATE(false, true);  // exchanged in place, or kept aside
  Net net;
  polyak::torch::Model model(net);
  polyak::Sgd sgd(model.parameters(), {.learning_rate = 0.5});
  polyak::Ema ema(
      model.parameters(),
      {.decay = 0.5, .accumulate = wide ? polyak::Accumulate::float64 : polyak::Accumulate::plain});
  net->backward(0);
  model.step(sgd, ema);
  const Tensor weight = values_of(net->first->weight), mean = values_of(net->norm->running_mean);
  const auto value = [&] { return ema.view()["first.weight"](7); };
  const float average = value();
  REQUIRE(average != weight.flatten()[7].item<float>());
  std::stringstream file;
  ::torch::save(net, file);
  {
    const auto guard = ema.swap_into(model.parameters());
    CHECK(net->first->weight.flatten()[7].item<float>() == average);
    CHECK_THROWS_AS(model.step(sgd, ema), std::logic_error);
    ::torch::load(net, file);
    net->second->weight.set_data(::torch::zeros({3, 5}));
  }
  CHECK(equal(net->first->weight, weight));
  CHECK(equal(net->norm->running_mean, mean));
  CHECK(net->second->weight.abs().max().item<float>() > 0);
  CHECK(value() == average);
  net->backward(1);
  CHECK(model.step(sgd, ema));
}

TEST_CASE("a guard leaves a tensor of another shape alone, and the average keeps its values") {
  Net net;
  polyak::torch::Model model(net);
  polyak::Ema ema(model.parameters(), {.decay = 0.5});
  ema.update(model.parameters());
  const Tensor average = average_of(ema, "second.weight", {3, 5});
  {
    const auto guard = ema.swap_into(model.parameters());
    net->second->weight.set_data(::torch::full({2, 2}, 7.0F));
    net->first->weight.set_data(::torch::empty({5, 6}, ::torch::kDouble));
  }
  CHECK(equal(net->second->weight, ::torch::full({2, 2}, 7.0F)));
  CHECK(equal(average_of(ema, "second.weight", {3, 5}), average));
  CHECK(refuses([&] { ema.update(model.parameters()); },
                {"first.weight", "is float64 [5, 6] now, expected float32 [5, 6]"}));
}

TEST_CASE("a guard outlives the module, the model and the average") {
  std::optional<polyak::SwapGuard> guard;
  Tensor weight;
  Tensor expected;
  {
    Net net;
    polyak::torch::Model model(net);
    polyak::Ema ema(model.parameters(), {.decay = 0.5});
    {
      const ::torch::NoGradGuard no_graph;
      net->first->weight.add_(1);
    }
    ema.update(model.parameters());
    weight = net->first->weight;
    expected = values_of(weight);
    guard = ema.swap_into(model.parameters());
  }
  CHECK_FALSE(equal(weight, expected));
  guard.reset();
  CHECK(equal(weight, expected));
}

TEST_CASE("tied weights are one tensor, and their gradients are summed") {
  Bag bag;
  Tensor a = bag->weight("a", ::torch::ones({2, 3}));
  bag->weight("b", a);                                  // the same tensor
  Tensor c = bag->weight("c", ::torch::zeros({2, 3}));  // another one of the same memory
  c.set_data(a);
  polyak::torch::Model model(bag);
  CHECK(model.parameters().size() == 1);
  CHECK(model.parameters().at("c").name() == "a");
  polyak::Sgd sgd(model.parameters(), {.learning_rate = 0.5});
  (2 * a).sum().backward();
  model.step(sgd);
  CHECK(equal(c, ::torch::zeros({2, 3})));
  (3 * c).sum().backward();  // beside the gradient of a
  model.step(sgd);
  CHECK(equal(a, ::torch::full({2, 3}, -2.5F)));
  CHECK(equal(a.grad(), ::torch::full({2, 3}, 2.0F)));  // was only read
  a.mutable_grad() = Tensor();
  model.step(sgd);
  CHECK(equal(a, ::torch::full({2, 3}, -4.0F)));

  c.set_data(::torch::zeros({2, 3}));
  CHECK(refuses([&] { model.step(sgd); }, {"\"c\"", "was tied to \"a\""}));
  CHECK(equal(a, ::torch::full({2, 3}, -4.0F)));
}

TEST_CASE("a weight without a gradient is left alone, and gradients of other strides are copied") {
  Bag bag;
  Tensor a = bag->weight("a", ::torch::ones({2, 3}));
  Tensor b = bag->weight("b", ::torch::ones({2, 3}));
  Tensor c = bag->weight("c", ::torch::ones({2, 3}).t());
  polyak::torch::Model model(bag);
  CHECK(model.parameters().at("c").info().order == polyak::Order::column_major);
  polyak::Sgd sgd(model.parameters(), {.learning_rate = 1, .weight_decay = 0.25});
  const Tensor values = ::torch::arange(6, ::torch::kFloat).view({3, 2});
  set_gradient(b, values.t());
  set_gradient(c, values);
  model.step(sgd);
  CHECK(equal(a, ::torch::ones({2, 3})));
  CHECK(equal(b, 0.75F - values.t()));
  CHECK(equal(c, 0.75F - values));
  set_gradient(b, ::torch::ones({1}).expand({2, 3}));
  CHECK(model.gradients()[0] == nullptr);
  CHECK(model.gradients()[1][5] == 1);
}

TEST_CASE("gradients that cannot be read are refused by the tensor's name") {
  Bag bag;
  Tensor a = bag->weight("a", ::torch::ones({4, 3}));
  Tensor b = bag->weight("b", ::torch::ones({4, 3}));
  polyak::torch::Model model(bag);
  polyak::Sgd sgd(model.parameters(), {.learning_rate = 1});
  set_gradient(a, ::torch::ones({4, 3}));
  const auto refused = [&](const Tensor& gradient, const std::string& words) {
    set_gradient(b, gradient);
    const bool named = refuses([&] { model.step(sgd); }, {"\"b\" has a gradient", words});
    return named && equal(a, ::torch::ones({4, 3})) && sgd.count() == 0;
  };
  CHECK(refused(::torch::ones({4, 3}).to_sparse(), "sparse"));
  CHECK(refused(::torch::ones({4, 3}, ::torch::kDouble), "of float64, expected float32"));
  CHECK(refused(::torch::ones({3, 4}), "another shape"));
  CHECK(refused(::torch::empty({4, 3}, ::torch::kMeta), "on the device meta"));
  {
    const ::torch::NoGradGuard no_graph;
    nn::Embedding table(nn::EmbeddingOptions(4, 3).sparse(true));
    polyak::torch::Model embedding(table);
    const ::torch::AutoGradMode graph(true);
    table(::torch::tensor({1, 2})).sum().backward();
    CHECK(refuses([&] { static_cast<void>(embedding.gradients()); }, {"\"weight\"", "sparse"}));
  }
  set_gradient(b, ::torch::ones({4, 3}));
  CHECK(model.step(sgd));
  CHECK(equal(b, ::torch::zeros({4, 3})));
}

TEST_CASE("tensors that cannot be followed are refused by name") {
  const auto refused = [](Tensor tensor, const std::string& words, bool trained = true) {
    Bag bag;
    bag->weight("fine", ::torch::ones({2}));
    bag->weight("w", std::move(tensor), trained);
    return refuses([&] { polyak::torch::Model model(bag); }, {"\"w\"", words});
  };
  CHECK(refused(::torch::empty({2}, ::torch::kMeta), "is on the device meta"));
  CHECK(refused(::torch::ones({2, 2}).to_sparse(), "is sparse"));
  CHECK(refused(::torch::ones({2}, ::torch::kComplexFloat), "ComplexFloat"));
  CHECK(refused(::torch::ones({2}, ::torch::kDouble), "weights of float64, which is not among"));
  CHECK(refused(::torch::ones({2, 4}).slice(1, 0, 2), "must be contiguous"));
  CHECK(refused(::torch::ones({1}).expand({3}), "must be contiguous"));
  {
    Bag bag;
    const Tensor memory = ::torch::ones({4});
    bag->weight("a", memory.slice(0, 0, 3));
    bag->weight("b", memory.slice(0, 1, 4));
    CHECK(refuses([&] { polyak::torch::Model model(bag); }, {"\"a\"", "\"b\"", "overlaps"}));
  }
  Bag bag;
  Tensor a = bag->weight("a", ::torch::ones({4}));
  Tensor b = bag->weight("b", ::torch::ones({4}));
  Tensor frozen = bag->weight("frozen", ::torch::ones({4}), false);
  polyak::torch::Model model(bag);
  polyak::Sgd sgd(model.parameters(), {.learning_rate = 1});
  set_gradient(a, ::torch::ones({4}));
  frozen.set_requires_grad(true);
  frozen.sum().backward();
  CHECK(refuses([&] { model.step(sgd); }, {"\"frozen\"", "has a gradient now"}));
  frozen.set_requires_grad(false);
  const Tensor own = b.data();
  b.set_data(a);
  CHECK(refuses([&] { model.step(sgd); }, {"overlaps", "\"a\"", "\"b\""}));
  b.set_data(own);
  bag->to(::torch::kDouble);
  CHECK(refuses([&] { model.step(sgd); }, {"\"a\"", "is float64 [4] now, expected float32 [4]"}));
  CHECK(sgd.count() == 0);
  bag->to(::torch::kFloat);
  a.mutable_grad() = ::torch::ones({4});
  CHECK(model.step(sgd));
  CHECK(equal(a, ::torch::zeros({4})));
}

TEST_CASE("a model of four types is stepped, averaged and swapped as one") {
  Bag bag;
  Tensor f = bag->weight("f", ::torch::ones({3}));
  Tensor h = bag->weight("h", ::torch::ones({3}, ::torch::kHalf));
  Tensor b = bag->weight("b", ::torch::ones({3}, ::torch::kBFloat16));
  Tensor d = bag->weight("d", ::torch::ones({3}, ::torch::kDouble));
  Tensor mean = bag->buffer("mean", ::torch::zeros({2}, ::torch::kDouble));
  bag->weight("frozen", ::torch::ones({2}, ::torch::kHalf), false);
  polyak::torch::Model<float, Eigen::half, Eigen::bfloat16, double> model(bag);
  CHECK(model.parameters<double>().at("mean").info().role == Role::copy);
  CHECK(model.parameters<Eigen::half>().at("frozen").info().role == Role::frozen);
  CHECK(not_averaged(model.not_averaged()) == "frozen frozen; mean copy; ");

  auto sgd = model.make([]<class P>(const polyak::Parameters<P>& params) {
    return polyak::Sgd(params, {.learning_rate = 0.25, .accumulate = polyak::Accumulate::plain});
  });
  auto ema = model.make([](const auto& params) { return polyak::Ema(params, {.decay = 0.5}); });
  const auto gradients = [&](double value) {
    for (Tensor* tensor : {&f, &h, &b, &d}) {
      tensor->mutable_grad() = ::torch::full({3}, value, tensor->options());
    }
  };
  gradients(2);
  mean.add_(3);
  CHECK(model.step(sgd, ema));
  for (const Tensor* tensor : {&f, &h, &b, &d}) {
    CHECK(distance(*tensor, ::torch::full({3}, 0.5)) == 0);
  }
  {
    const auto guards = ema.swap_into(model);
    CHECK(guards.size() == 4);
    for (const Tensor* tensor : {&f, &h, &b, &d}) {
      CHECK(distance(*tensor, ::torch::full({3}, 0.75)) == 0);
    }
    CHECK_THROWS_AS(model.step(sgd), std::logic_error);
  }
  for (const Tensor* tensor : {&f, &h, &b, &d}) {
    CHECK(distance(*tensor, ::torch::full({3}, 0.5)) == 0);
  }
  sgd.each([](auto& method) { method.at(0.5); });
  gradients(1);
  CHECK(model.step(polyak::serial, sgd));
  CHECK(distance(b, ::torch::zeros({3})) == 0);
  CHECK(distance(d, ::torch::zeros({3})) == 0);
  CHECK(model.update(ema));
  CHECK(ema.get<double>().calls() == 2);

  // A type whose weights nothing would train, and a type without weights.
  const auto calls = sgd.get<float>().count();
  CHECK(refuses([&] { model.step(sgd.get<float>(), ema); }, {"no optimizer", "float16"}));
  CHECK(sgd.get<float>().count() == calls);
  Bag only;
  Tensor one = only->weight("one", ::torch::ones({3}));
  only->buffer("count", ::torch::zeros({2}, ::torch::kDouble));
  polyak::torch::Model<double, float> small(only);
  auto few =
      small.make([](const auto& params) { return polyak::Sgd(params, {.learning_rate = 1}); });
  CHECK(small.parameters<float>().size() == 2);
  CHECK(few.find<double>() == nullptr);
  CHECK(refuses([&] { static_cast<void>(few.get<double>()); }, {"float64"}));
  one.mutable_grad() = ::torch::ones({3});
  CHECK(small.step(few));
  CHECK(distance(one, ::torch::zeros({3})) == 0);
}

TEST_CASE("an average has the newest buffers of BatchNorm, and the guard puts them in") {
  Net net;
  polyak::torch::Model model(net);
  polyak::Sgd sgd(model.parameters(), {.learning_rate = 0.125});
  polyak::Ema ema(model.parameters(), {.decay = 0.5});
  net->backward(0);
  model.step(sgd, ema);
  const Tensor mean = values_of(net->norm->running_mean);
  REQUIRE(mean.abs().max().item<float>() > 0);
  net->backward(1);  // counts batches, changes the mean
  REQUIRE_FALSE(equal(net->norm->running_mean, mean));
  REQUIRE(net->norm->num_batches_tracked.item<std::int64_t>() == 2);
  {
    const auto guard = ema.swap_into(model.parameters());
    CHECK(equal(net->norm->running_mean, mean));
    CHECK(net->norm->num_batches_tracked.item<std::int64_t>() == 1);
  }
  CHECK(net->norm->num_batches_tracked.item<std::int64_t>() == 2);
}

TEST_CASE("frozen weights keep their bits, and have no average") {
  Net net;
  net->first->weight.set_requires_grad(false);
  polyak::torch::Model model(net);
  polyak::AdamW adamw(model.parameters(), {.learning_rate = 0.125, .weight_decay = 0.5});
  polyak::Ema ema(model.parameters(), {.decay = 0.5});
  const Tensor before = values_of(net->first->weight);
  net->backward(0);
  model.step(adamw, ema);
  CHECK(equal(net->first->weight, before));
  CHECK(refuses([&] { static_cast<void>(ema.view()["first.weight"]); }, {"first.weight"}));
}

TEST_CASE("channels-last filters train as contiguous ones, and are row-major in files") {
  const auto dimensions = GENERATE(2, 3);
  const TemporaryFolder folder;
  const auto format =
      dimensions == 2 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
  const std::vector<std::int64_t> shape = dimensions == 2
                                              ? std::vector<std::int64_t>{4, 3, 2, 5}
                                              : std::vector<std::int64_t>{4, 3, 2, 5, 2};
  ::torch::manual_seed(3);
  const Tensor start = ::torch::randn(shape);
  Bag last, twin;
  Tensor w = last->weight("w", start.clone().contiguous(format));
  Tensor v = twin->weight("w", start.clone());
  REQUIRE_FALSE(w.is_contiguous());
  polyak::torch::Model model(last), other(twin);
  CHECK(model.parameters().at("w").info().order == polyak::Order::channels_last);
  CHECK(model.parameters().at("w").shape() == shape);
  polyak::AdamW adamw(model.parameters(), {.learning_rate = 0.125}),
      also(other.parameters(), {.learning_rate = 0.125});
  polyak::Ema ema(model.parameters(), {.decay = 0.5}), average(other.parameters(), {.decay = 0.5});
  for (int step = 0; step < 4; ++step) {
    const Tensor gradient = ::torch::randn(shape);
    set_gradient(w, step % 2 == 0 ? gradient : gradient.contiguous(format));  // either is read
    set_gradient(v, gradient);
    model.step(adamw, ema);
    other.step(also, average);
  }
  CHECK(equal(w, v));

  const auto file = folder.file("model.safetensors");
  const auto bytes = [&](const std::string& name) {
    const polyak::SafetensorsFile read(file);
    const auto& tensor = read.at(name);
    const auto data = read.bytes(tensor);
    return std::tuple(std::vector<std::byte>(data.begin(), data.end()), tensor.shape);
  };
  for (const auto dtype :
       {std::optional<polyak::DType>(), std::optional(polyak::DType::bfloat16)}) {
    polyak::save_weights(file, other.parameters(), {.dtype = dtype});
    const auto expected = bytes("w");
    polyak::save_weights(file, model.parameters(), {.dtype = dtype});
    CHECK(bytes("w") == expected);
    polyak::save_average(file, other.parameters(), average, {.dtype = dtype});
    const auto averaged = bytes("w");
    polyak::save_average(file, model.parameters(), ema, {.dtype = dtype});
    CHECK(bytes("w") == averaged);
    CHECK(averaged != expected);
  }
  // Back into either order, weights alone and the whole state.
  polyak::save_weights(file, other.parameters());
  const Tensor weights = values_of(v);
  w.data().zero_();
  polyak::load_weights(file, model.parameters());
  CHECK(equal(w, weights));
  w.data().zero_();
  polyak::save_weights(file, other.parameters(), {.dtype = polyak::DType::float64});
  polyak::load_weights(file, model.parameters());  // converted as it is read
  CHECK(equal(w, weights));
  polyak::save(file, other.parameters(), also, average);
  w.data().zero_();
  polyak::AdamW adamw2(model.parameters(), {.learning_rate = 0.125});
  polyak::Ema ema2(model.parameters(), {.decay = 0.5});
  polyak::load(file, model.parameters(), adamw2, ema2);
  CHECK(equal(w, weights));
  const Tensor gradient = ::torch::randn(shape);
  set_gradient(w, gradient);
  set_gradient(v, gradient);
  model.step(adamw2, ema2);
  other.step(also, average);
  CHECK(equal(w, v));
  {
    const auto guard = ema2.swap_into(model.parameters());
    const auto guard2 = average.swap_into(other.parameters());
    CHECK(equal(w, v));
  }

  // A row-major checkpoint in its place has other strides.
  w.set_data(start.clone());
  CHECK(refuses([&] { model.step(adamw2); }, {"\"w\"", "other strides"}));
}

}  // namespace torch_test
