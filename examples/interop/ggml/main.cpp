// SPDX-License-Identifier: Apache-2.0
// Linear regression in ggml, twice. First ggml's optimizer trains in ggml_opt_epoch(), and an EMA
// follows through its callback. Then polyak's AdamW trains on the gradients that ggml accumulates,
// with the EMA in the same pass.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml-opt.h>
#include <ggml.h>

#include <polyak/average/ema.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/interop/ggml.hpp>
#include <polyak/optim/adamw.hpp>

namespace {

constexpr std::int64_t inputs = 16, outputs = 4, points = 1024, batch = 16, epochs = 5;

template <auto* Free>
struct Freed {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Context = std::unique_ptr<ggml_context, Freed<ggml_free>>;
using Buffer = std::unique_ptr<ggml_backend_buffer, Freed<ggml_backend_buffer_free>>;
using Backend = std::unique_ptr<ggml_backend, Freed<ggml_backend_free>>;
using Dataset = std::unique_ptr<ggml_opt_dataset, Freed<ggml_opt_dataset_free>>;

/// A context for the descriptions of tensors and of some graphs.
Context new_context(std::size_t graphs) {
  const std::size_t graph = ggml_graph_overhead_custom(GGML_DEFAULT_GRAPH_SIZE, /*grads=*/true);
  return Context(ggml_init({.mem_size = 256 * ggml_tensor_overhead() + graphs * graph,
                            .mem_buffer = nullptr,
                            .no_alloc = true}));
}

/// Points and their labels: a linear map, and noise.
struct Data {
  std::vector<float> truth, x, y;

  Data() : truth(inputs * outputs), x(points * inputs), y(points * outputs) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& value : truth) value = normal(random);
    for (float& value : x) value = normal(random);
    for (std::size_t p = 0; p < points; ++p) {
      for (std::size_t o = 0; o < outputs; ++o) {
        float sum = 0.5f * normal(random);
        for (std::size_t i = 0; i < inputs; ++i) sum += truth[o * inputs + i] * x[p * inputs + i];
        y[p * outputs + o] = sum;
      }
    }
  }
  /// The squared distance of weights from the truth.
  [[nodiscard]] double error(const ggml_tensor* weights) const {
    const auto* const w = static_cast<const float*>(weights->data);
    double sum = 0;
    for (std::size_t k = 0; k < truth.size(); ++k) {
      sum += static_cast<double>(w[k] - truth[k]) * static_cast<double>(w[k] - truth[k]);
    }
    return sum;
  }
};

/// Prints the distances and returns whether the average is the nearer one.
bool report(const char* how, const Data& data, const ggml_tensor* weights,
            const polyak::Parameters<float>& params, polyak::Ema<float>& ema) {
  const double own = data.error(weights);
  const auto averaged = ema.swap_into(params);
  std::printf("%s: squared error of the weights %.4f, of their average %.4f\n", how, own,
              data.error(weights));
  return data.error(weights) < own && own < 1;
}

std::optional<polyak::GgmlUpdates<polyak::Ema<float>>> updates;  // of ggml_epoch_callback

bool trained_by_ggml(const Data& data, ggml_backend_t backend) {
  const Context kept = new_context(0), computed = new_context(3);
  ggml_tensor* const x = ggml_new_tensor_2d(kept.get(), GGML_TYPE_F32, inputs, batch);
  ggml_tensor* const weights = ggml_new_tensor_2d(kept.get(), GGML_TYPE_F32, inputs, outputs);
  ggml_set_name(weights, "weights");
  ggml_set_param(weights);
  ggml_tensor* const y = ggml_mul_mat(computed.get(), weights, x);
  const Buffer buffer(ggml_backend_alloc_ctx_tensors(kept.get(), backend));
  ggml_backend_buffer_clear(buffer.get(), 0);

  const Dataset dataset(
      ggml_opt_dataset_init(GGML_TYPE_F32, GGML_TYPE_F32, inputs, outputs, points, batch));
  ggml_backend_tensor_set(ggml_opt_dataset_data(dataset.get()), data.x.data(), 0,
                          data.x.size() * sizeof(float));
  ggml_backend_tensor_set(ggml_opt_dataset_labels(dataset.get()), data.y.data(), 0,
                          data.y.size() * sizeof(float));
  using Scheduler = std::unique_ptr<ggml_backend_sched, Freed<ggml_backend_sched_free>>;
  const Scheduler scheduler(
      ggml_backend_sched_new(&backend, nullptr, 1, GGML_DEFAULT_GRAPH_SIZE, false, true));
  ggml_opt_params options =
      ggml_opt_default_params(scheduler.get(), GGML_OPT_LOSS_TYPE_MEAN_SQUARED_ERROR);
  ggml_opt_optimizer_params rates = ggml_opt_get_default_optimizer_params(nullptr);
  rates.adamw.alpha = 0.05f;
  options.ctx_compute = computed.get();
  options.inputs = x;
  options.outputs = y;
  options.get_opt_pars = ggml_opt_get_constant_optimizer_params;
  options.get_opt_pars_ud = &rates;
  using Trainer = std::unique_ptr<ggml_opt_context, Freed<ggml_opt_free>>;
  const Trainer trainer(ggml_opt_init(options));

  const polyak::Parameters<float> params = polyak::ggml_parameters(kept.get());
  polyak::Ema<float> ema(params, {.decay = 0.95});
  updates.emplace(params, ema);
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    ggml_opt_epoch(trainer.get(), dataset.get(), nullptr, nullptr, points,
                   polyak::ggml_epoch_callback<updates>, nullptr);
    updates->check();
  }
  updates.reset();
  return report("ggml's AdamW", data, weights, params, ema) &&
         ema.count() == epochs * points / batch;
}

bool trained_by_polyak(const Data& data, ggml_backend_t backend) {
  const Context kept = new_context(0), computed = new_context(2);
  ggml_tensor* const x = ggml_new_tensor_2d(kept.get(), GGML_TYPE_F32, inputs, batch);
  ggml_tensor* const labels = ggml_new_tensor_2d(kept.get(), GGML_TYPE_F32, outputs, batch);
  ggml_tensor* const weights = ggml_new_tensor_2d(kept.get(), GGML_TYPE_F32, inputs, outputs);
  ggml_set_name(weights, "weights");
  ggml_set_param(weights);
  ggml_tensor* const error =
      ggml_sub(computed.get(), ggml_mul_mat(computed.get(), weights, x), labels);
  ggml_tensor* const loss = ggml_scale(
      computed.get(), ggml_sum(computed.get(), ggml_sqr(computed.get(), error)), 1.0f / batch);
  ggml_set_loss(loss);
  ggml_cgraph* const graph =
      ggml_new_graph_custom(computed.get(), GGML_DEFAULT_GRAPH_SIZE, /*grads=*/true);
  ggml_build_forward_expand(graph, loss);

  // Accumulators of the gradients: tensors that keep their memory.
  std::vector<ggml_tensor*> accumulators(static_cast<std::size_t>(ggml_graph_n_nodes(graph)));
  for (int k = 0; k < ggml_graph_n_nodes(graph); ++k) {
    const ggml_tensor* const node = ggml_graph_node(graph, k);
    if ((node->flags & (GGML_TENSOR_FLAG_PARAM | GGML_TENSOR_FLAG_LOSS)) == 0) continue;
    accumulators[static_cast<std::size_t>(k)] =
        ggml_new_tensor(kept.get(), GGML_TYPE_F32, GGML_MAX_DIMS, node->ne);
  }
  ggml_build_backward_expand(computed.get(), graph, accumulators.data());
  const Buffer buffer(ggml_backend_alloc_ctx_tensors(kept.get(), backend));
  ggml_backend_buffer_clear(buffer.get(), 0);
  using Allocator = std::unique_ptr<ggml_gallocr, Freed<ggml_gallocr_free>>;
  const Allocator allocator(ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend)));
  ggml_gallocr_alloc_graph(allocator.get(), graph);

  const polyak::Parameters<float> params = polyak::ggml_parameters(kept.get());
  polyak::Gradients<float> gradients(params);
  polyak::set_ggml_gradient(gradients, *weights, ggml_graph_get_grad_acc(graph, weights));
  polyak::AdamW<float> adamw(params, {.learning_rate = 0.05, .weight_decay = 0});
  polyak::Ema<float> ema(params, {.decay = 0.95});
  for (std::size_t step = 0; step < epochs * points / batch; ++step) {
    const std::size_t first = step % (points / batch) * batch;
    ggml_backend_tensor_set(x, data.x.data() + first * inputs, 0, ggml_nbytes(x));
    ggml_backend_tensor_set(labels, data.y.data() + first * outputs, 0, ggml_nbytes(labels));
    ggml_graph_reset(graph);  // gradients to 0
    ggml_backend_graph_compute(backend, graph);
    polyak::step(params, gradients, adamw, ema);
  }
  return report("polyak's AdamW", data, weights, params, ema);
}

}  // namespace

int main() {
  const Data data;
  const Backend backend(ggml_backend_cpu_init());
  ggml_backend_cpu_set_n_threads(backend.get(), 1);  // the model is tiny
  const bool ggml = trained_by_ggml(data, backend.get());
  const bool polyak = trained_by_polyak(data, backend.get());
  return ggml && polyak ? 0 : 1;
}
