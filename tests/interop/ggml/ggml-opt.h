/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for ggml's header; see ggml.h. */
#pragma once

#include "ggml.h"

typedef struct ggml_opt_context* ggml_opt_context_t;
typedef struct ggml_opt_dataset* ggml_opt_dataset_t;
typedef struct ggml_opt_result* ggml_opt_result_t;

typedef void (*ggml_opt_epoch_callback)(bool train, ggml_opt_context_t context,
                                        ggml_opt_dataset_t dataset, ggml_opt_result_t result,
                                        int64_t ibatch, int64_t ibatch_max, int64_t t_start_us);
