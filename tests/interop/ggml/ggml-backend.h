/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for ggml's header; see ggml.h. */
#pragma once

#include "ggml.h"

struct ggml_backend_buffer {
  const char* name;
  bool is_host;
};
typedef struct ggml_backend_buffer* ggml_backend_buffer_t;

inline bool ggml_backend_buffer_is_host(ggml_backend_buffer_t buffer) { return buffer->is_host; }
inline const char* ggml_backend_buffer_name(ggml_backend_buffer_t buffer) { return buffer->name; }
