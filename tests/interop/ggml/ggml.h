/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for ggml's header: the types, fields and functions that polyak uses, under the same
 * names and with the same meaning. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define GGML_MAX_DIMS 4
#define GGML_MAX_NAME 64

enum ggml_type {
  GGML_TYPE_F32 = 0,
  GGML_TYPE_F16 = 1,
  GGML_TYPE_Q4_0 = 2,
  GGML_TYPE_I8 = 24,
  GGML_TYPE_I16 = 25,
  GGML_TYPE_I32 = 26,
  GGML_TYPE_I64 = 27,
  GGML_TYPE_F64 = 28,
  GGML_TYPE_BF16 = 30,
};

enum ggml_tensor_flag { GGML_TENSOR_FLAG_PARAM = 4 };

struct ggml_backend_buffer;

struct ggml_tensor {
  enum ggml_type type;
  struct ggml_backend_buffer* buffer;
  int64_t ne[GGML_MAX_DIMS]; /* number of elements */
  size_t nb[GGML_MAX_DIMS];  /* stride in bytes */
  int32_t flags;
  struct ggml_tensor* view_src;
  void* data;
  char name[GGML_MAX_NAME];
  struct ggml_tensor* next; /* of its context; not a field of ggml's */
};

struct ggml_context {
  struct ggml_tensor* first;
};

inline const char* ggml_get_name(const struct ggml_tensor* tensor) { return tensor->name; }
inline const char* ggml_type_name(enum ggml_type type) {
  switch (type) {
    case GGML_TYPE_F32:
      return "f32";
    case GGML_TYPE_F16:
      return "f16";
    case GGML_TYPE_Q4_0:
      return "q4_0";
    case GGML_TYPE_BF16:
      return "bf16";
    default:
      return "another";
  }
}
inline size_t ggml_type_size(enum ggml_type type) {
  switch (type) {
    case GGML_TYPE_I8:
      return 1;
    case GGML_TYPE_F16:
    case GGML_TYPE_BF16:
    case GGML_TYPE_I16:
      return 2;
    case GGML_TYPE_I64:
    case GGML_TYPE_F64:
      return 8;
    default:
      return 4;
  }
}
inline bool ggml_is_contiguous(const struct ggml_tensor* tensor) {
  size_t stride = ggml_type_size(tensor->type);
  for (int k = 0; k < GGML_MAX_DIMS; ++k) {
    if (tensor->ne[k] != 1 && tensor->nb[k] != stride) return false;
    stride *= static_cast<size_t>(tensor->ne[k]);
  }
  return true;
}
inline struct ggml_tensor* ggml_get_first_tensor(const struct ggml_context* context) {
  return context->first;
}
inline struct ggml_tensor* ggml_get_next_tensor(const struct ggml_context*,
                                                struct ggml_tensor* tensor) {
  return tensor->next;
}
