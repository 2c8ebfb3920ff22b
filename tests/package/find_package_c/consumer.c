/* SPDX-License-Identifier: Apache-2.0 */
/* A user's program in C: trains, averages and puts the average into the model. */
#include <polyak/interop/c.h>
#include <stdint.h>
#include <stdio.h>

int main(void) {
  float weights[6] = {2, 2, 2, 2, 2, 2};
  const float gradient[6] = {1, 1, 1, 1, 1, 1};
  const int64_t shape[] = {2, 3};
  const polyak_tensor tensor = {"weights",        weights, POLYAK_FLOAT32, POLYAK_ROLE_AVERAGE,
                                POLYAK_ROW_MAJOR, 2,       shape};
  const polyak_option rate = {"learning_rate", "0.5"}, decay = {"decay", "0.5"};
  const void* const gradients[] = {gradient};
  polyak_parameters* list = NULL;
  polyak_optimizer* sgd = NULL;
  polyak_average* ema = NULL;
  polyak_guard* guard = NULL;
  if (polyak_parameters_create(POLYAK_FLOAT32, &tensor, 1, &list) != POLYAK_OK ||
      polyak_optimizer_create(list, "Sgd", &rate, 1, &sgd) != POLYAK_OK ||
      polyak_average_create(list, "Ema", &decay, 1, &ema) != POLYAK_OK ||
      polyak_step(sgd, gradients, 1, &ema, 1, NULL) != POLYAK_OK ||
      polyak_average_swap_in(ema, &guard) != POLYAK_OK) {
    fprintf(stderr, "%s\n", polyak_last_error());
    return 1;
  }
  const float averaged = weights[5];
  polyak_swap_out(guard);
  polyak_average_destroy(ema);
  polyak_optimizer_destroy(sgd);
  polyak_parameters_destroy(list);
  return averaged == 1.75f && weights[5] == 1.5f ? 0 : 1;
}
