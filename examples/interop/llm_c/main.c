/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A training loop in C, laid out as in llm.c: one contiguous buffer of parameters, one of
 * gradients, and an array of sizes. A small network learns to predict the next token of a generated
 * text from the two before. AdamW trains it and an EMA averages it in the same pass over memory;
 * halfway the run is saved, and a second model resumes from the file, to the last bit.
 *
 * Usage: llm_c [FILE], by default llm_c.safetensors.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <polyak/interop/c.h>

enum { VOCABULARY = 16, CONTEXT = 2, EMBEDDING = 8, HIDDEN = 32, BATCH = 32, STEPS = 600 };
enum { INPUT = CONTEXT * EMBEDDING, TEXT = 20000, TRAINED = 16000 };

/* ---- the model ---- */

enum { WTE, FC_WEIGHT, FC_BIAS, HEAD_WEIGHT, HEAD_BIAS, TENSORS };

static const char* const names[TENSORS] = {"wte.weight", "fc.weight", "fc.bias", "head.weight",
                                           "head.bias"};
static const size_t ranks[TENSORS] = {2, 2, 1, 2, 1};
static const int64_t shapes[TENSORS][2] = {
    {VOCABULARY, EMBEDDING}, {HIDDEN, INPUT}, {HIDDEN, 0}, {VOCABULARY, HIDDEN}, {VOCABULARY, 0}};

static size_t size_of(int tensor) {
  size_t size = 1;
  for (size_t k = 0; k < ranks[tensor]; ++k) size *= (size_t)shapes[tensor][k];
  return size;
}

typedef struct Model {
  float* parameters; /* all tensors, one after another */
  float* gradients;
  size_t count;
  float* parameter[TENSORS]; /* places in them */
  float* gradient[TENSORS];
  polyak_parameters* list;
  polyak_optimizer* optimizer;
  polyak_average* ema;
} Model;

/* Ends the program with the message of a call that failed. */
static void check(polyak_status status) {
  if (status == POLYAK_OK) return;
  fprintf(stderr, "error %d: %s\n", (int)status, polyak_last_error());
  exit(EXIT_FAILURE);
}

static uint32_t random_state;
static double uniform(void) { /* in [0, 1) */
  random_state = random_state * 1664525u + 1013904223u;
  return (random_state >> 8) / 16777216.0;
}

static void model_create(Model* model) {
  memset(model, 0, sizeof *model);
  for (int t = 0; t < TENSORS; ++t) model->count += size_of(t);
  model->parameters = calloc(model->count, sizeof(float));
  model->gradients = calloc(model->count, sizeof(float));
  if (model->parameters == NULL || model->gradients == NULL) {
    fprintf(stderr, "out of memory\n");
    exit(EXIT_FAILURE);
  }

  polyak_tensor tensors[TENSORS];
  memset(tensors, 0, sizeof tensors); /* weights, row-major */
  size_t place = 0;
  for (int t = 0; t < TENSORS; ++t) {
    model->parameter[t] = model->parameters + place;
    model->gradient[t] = model->gradients + place;
    place += size_of(t);
    tensors[t].name = names[t];
    tensors[t].data = model->parameter[t];
    tensors[t].dtype = POLYAK_FLOAT32;
    tensors[t].rank = ranks[t];
    tensors[t].shape = shapes[t];
  }
  check(polyak_parameters_create(POLYAK_FLOAT32, tensors, TENSORS, &model->list));

  random_state = 1;
  for (int t = 0; t < TENSORS; ++t) {
    const double width = ranks[t] == 2 ? 1 / sqrt((double)shapes[t][1]) : 0;
    for (size_t k = 0; k < size_of(t); ++k) {
      model->parameter[t][k] = (float)(width * (2 * uniform() - 1));
    }
  }

  const polyak_option adamw[] = {{"beta2", "0.99"}, {"weight_decay", "0.01"}};
  const polyak_option ema[] = {{"decay", "0.98"}};
  check(polyak_optimizer_create(model->list, "AdamW", adamw, 2, &model->optimizer));
  check(polyak_optimizer_group(model->optimizer, "*.bias", 1, 0)); /* no decay of biases */
  check(polyak_optimizer_clip_norm(model->optimizer, 1));
  check(polyak_average_create(model->list, "Ema", ema, 1, &model->ema));
}

static void model_destroy(Model* model) {
  polyak_average_destroy(model->ema);
  polyak_optimizer_destroy(model->optimizer);
  polyak_parameters_destroy(model->list);
  free(model->parameters);
  free(model->gradients);
}

/* The loss of predicting text[at]; adds its gradient, times `weight`, unless that is 0. */
static double loss_at(Model* model, const int* text, int at, float weight) {
  float input[INPUT], hidden[HIDDEN], output[VOCABULARY], hidden_gradient[HIDDEN] = {0};
  for (int c = 0; c < CONTEXT; ++c) {
    memcpy(input + c * EMBEDDING, model->parameter[WTE] + text[at - CONTEXT + c] * EMBEDDING,
           sizeof(float) * EMBEDDING);
  }
  for (int h = 0; h < HIDDEN; ++h) {
    float sum = model->parameter[FC_BIAS][h];
    for (int i = 0; i < INPUT; ++i) sum += model->parameter[FC_WEIGHT][h * INPUT + i] * input[i];
    hidden[h] = tanhf(sum);
  }
  float largest = -INFINITY;
  for (int v = 0; v < VOCABULARY; ++v) {
    float sum = model->parameter[HEAD_BIAS][v];
    for (int h = 0; h < HIDDEN; ++h) {
      sum += model->parameter[HEAD_WEIGHT][v * HIDDEN + h] * hidden[h];
    }
    output[v] = sum;
    if (sum > largest) largest = sum;
  }
  float total = 0;
  for (int v = 0; v < VOCABULARY; ++v) total += output[v] = expf(output[v] - largest);
  const double loss = -log((double)output[text[at]] / (double)total);
  if (weight == 0) return loss;

  for (int v = 0; v < VOCABULARY; ++v) {
    const float error = weight * (output[v] / total - (v == text[at] ? 1.0f : 0.0f));
    model->gradient[HEAD_BIAS][v] += error;
    for (int h = 0; h < HIDDEN; ++h) {
      model->gradient[HEAD_WEIGHT][v * HIDDEN + h] += error * hidden[h];
      hidden_gradient[h] += error * model->parameter[HEAD_WEIGHT][v * HIDDEN + h];
    }
  }
  for (int h = 0; h < HIDDEN; ++h) {
    const float error = hidden_gradient[h] * (1 - hidden[h] * hidden[h]);
    model->gradient[FC_BIAS][h] += error;
    for (int i = 0; i < INPUT; ++i) {
      model->gradient[FC_WEIGHT][h * INPUT + i] += error * input[i];
      model->gradient[WTE][text[at - CONTEXT + i / EMBEDDING] * EMBEDDING + i % EMBEDDING] +=
          error * model->parameter[FC_WEIGHT][h * INPUT + i];
    }
  }
  return loss;
}

static double validation_loss(Model* model, const int* text) {
  double sum = 0;
  for (int at = TRAINED; at < TEXT; ++at) sum += loss_at(model, text, at, 0);
  return sum / (TEXT - TRAINED);
}

/* ---- training ---- */

/* Steps `begin` to `end`; the batches of a step depend on its number alone. */
static void train(Model* model, const int* text, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    memset(model->gradients, 0, model->count * sizeof(float));
    random_state = 7919u * (uint32_t)step;
    for (int b = 0; b < BATCH; ++b) {
      const int at = CONTEXT + (int)(uniform() * (TRAINED - CONTEXT));
      loss_at(model, text, at, 1.0f / BATCH);
    }
    const double warm = step < 20 ? (step + 1) / 20.0 : 1;
    check(polyak_optimizer_set_learning_rate(model->optimizer, 0.01 * warm));
    const void* gradients[TENSORS];
    for (int t = 0; t < TENSORS; ++t) gradients[t] = model->gradient[t];
    check(polyak_step(model->optimizer, gradients, TENSORS, &model->ema, 1, NULL));
    if ((step + 1) % 200 == 0) {
      double norm = 0;
      check(polyak_optimizer_gradient_norm(model->optimizer, &norm));
      printf("step %3d: validation loss %.4f, gradient norm %.3f\n", step + 1,
             validation_loss(model, text), norm);
    }
  }
}

int main(int argc, char** argv) {
  const char* const path = argc > 1 ? argv[1] : "llm_c.safetensors";

  /* Each token follows the two before by a rule, or, one time in five, is any token. */
  static int text[TEXT];
  random_state = 42;
  for (int k = 0; k < TEXT; ++k) {
    const int rule = k < CONTEXT ? 0 : (5 * text[k - 1] + text[k - 2] / 8 + 1) % VOCABULARY;
    text[k] = uniform() < 0.2 ? (int)(uniform() * VOCABULARY) : rule;
  }

  Model model, resumed;
  model_create(&model);
  size_t total = 0;
  check(polyak_optimizer_memory(model.optimizer, NULL, 0, NULL, &total));
  printf("%zu parameters, %zu bytes of AdamW's state\n", model.count, total);
  const double untrained = validation_loss(&model, text);
  printf("untrained: validation loss %.4f\n", untrained);
  train(&model, text, 0, STEPS / 2);
  const polyak_average* const averages[] = {model.ema};
  check(polyak_save(path, model.list, model.optimizer, averages, 1));
  train(&model, text, STEPS / 2, STEPS);

  const double own = validation_loss(&model, text);
  polyak_guard* guard = NULL;
  check(polyak_average_swap_in(model.ema, &guard));
  const double averaged = validation_loss(&model, text);
  polyak_swap_out(guard);
  printf("the weights: %.4f, their average: %.4f\n", own, averaged);

  model_create(&resumed);
  check(polyak_load(path, resumed.list, resumed.optimizer, &resumed.ema, 1));
  int64_t steps = 0;
  check(polyak_optimizer_steps(resumed.optimizer, &steps));
  printf("resumed after step %d\n", (int)steps);
  train(&resumed, text, (int)steps, STEPS);
  const int same = memcmp(model.parameters, resumed.parameters, model.count * sizeof(float)) == 0;
  printf("the resumed run has %s\n", same ? "the same weights, to the bit" : "other weights");

  model_destroy(&resumed);
  model_destroy(&model);
  return same && averaged < own && own < 0.8 * untrained ? EXIT_SUCCESS : EXIT_FAILURE;
}
