/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file
 * polyak for C, and for every language that calls C: Rust, Julia, Zig, Go, Fortran.
 *
 *   polyak_parameters* list;
 *   polyak_optimizer* optimizer;
 *   polyak_average* ema;
 *   const polyak_option adamw[] = {{"learning_rate", "3e-4"}, {"weight_decay", "0.1"}};
 *   const polyak_option decay[] = {{"decay", "0.999"}};
 *   polyak_parameters_create(POLYAK_FLOAT32, tensors, count, &list);
 *   polyak_optimizer_create(list, "AdamW", adamw, 2, &optimizer);
 *   polyak_average_create(list, "Ema", decay, 1, &ema);
 *   for (...) polyak_step(optimizer, gradients, count, &ema, 1, NULL);
 *
 * Compile <polyak/interop/c.cpp> into the program, as C++20; it is the one file that defines these
 * functions. With CMake, link the target polyak::c instead. Files are read and written by
 * nlohmann_json, as in polyak::io.
 *
 * Errors. Each function returns a polyak_status and throws nothing. Where it is not POLYAK_OK,
 * polyak_last_error() has the message, no object has changed, and no output was written. The only
 * exception is an update that made a weight NaN or infinite: it stands, and the message says so.
 *
 * Memory. Tensors stay the caller's, and must live as long as any object made from the list.
 * Objects may be destroyed in any order; each of them keeps what it needs of the others.
 *
 * Threads. Distinct lists, with their objects, may be used by distinct threads. All work of a call
 * runs in its thread.
 */
#ifndef POLYAK_INTEROP_C_H
#define POLYAK_INTEROP_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ---- */

typedef enum polyak_status {
  POLYAK_OK = 0,
  POLYAK_INVALID_ARGUMENT = 1, /**< an argument, option, shape or type breaks a rule */
  POLYAK_WRONG_ORDER = 2,      /**< a call at the wrong time, such as a step while swapped in */
  POLYAK_IO_ERROR = 3,         /**< a file cannot be read or written, or is damaged */
  POLYAK_NONFINITE = 4,        /**< a NaN or an infinity, with the option nonfinite = error */
  POLYAK_OUT_OF_MEMORY = 5,
  POLYAK_UNKNOWN = 6 /**< anything else */
} polyak_status;

/**
 * The message of the last call in this thread that failed; "" if none did. Valid until the next
 * call in this thread that fails.
 */
const char* polyak_last_error(void);

/* ---- lists of tensors ---- */

typedef enum polyak_dtype {
  POLYAK_BOOL = 0,
  POLYAK_INT8 = 1,
  POLYAK_UINT8 = 2,
  POLYAK_INT16 = 3,
  POLYAK_UINT16 = 4,
  POLYAK_INT32 = 5,
  POLYAK_UINT32 = 6,
  POLYAK_INT64 = 7,
  POLYAK_UINT64 = 8,
  POLYAK_FLOAT16 = 9,
  POLYAK_BFLOAT16 = 10,
  POLYAK_FLOAT32 = 11,
  POLYAK_FLOAT64 = 12
} polyak_dtype;

typedef enum polyak_role {
  POLYAK_ROLE_AVERAGE = 0, /**< a weight: trained by optimizers, averaged by averages */
  POLYAK_ROLE_COPY = 1,    /**< a buffer: not trained; averages keep its newest value */
  POLYAK_ROLE_IGNORE = 2,  /**< trained if it has a gradient, but not averaged */
  POLYAK_ROLE_FROZEN = 3   /**< only saved */
} polyak_role;

typedef enum polyak_order {
  POLYAK_ROW_MAJOR = 0,   /**< the last index is the fastest: C, NumPy, PyTorch */
  POLYAK_COLUMN_MAJOR = 1 /**< the first index is the fastest: Julia, Fortran */
} polyak_order;

/** A tensor in the caller's memory, which is contiguous and aligned as its type. */
typedef struct polyak_tensor {
  const char* name;     /**< unique in its list */
  void* data;           /**< null only for a tensor without elements */
  polyak_dtype dtype;   /**< the list's own for weights; any for the other roles */
  polyak_role role;     /**< 0 is a weight */
  polyak_order order;   /**< 0 is row-major */
  size_t rank;          /**< number of dimensions; 0 is one number */
  const int64_t* shape; /**< of `rank` dimensions, each >= 0 */
} polyak_tensor;

/** Names, shapes and places of a model's tensors. */
typedef struct polyak_parameters polyak_parameters;

/**
 * Makes a list of `count` tensors whose weights are of type `weights`: float16, bfloat16, float32
 * or float64. Names and shapes are copied, data are not. Two tensors with the same memory are tied:
 * the later name is an alias, and takes no gradient.
 */
polyak_status polyak_parameters_create(polyak_dtype weights, const polyak_tensor* tensors,
                                       size_t count, polyak_parameters** list);
/** Gives a tensor other memory of its type and size, for models that move. */
polyak_status polyak_parameters_rebind(polyak_parameters* list, const char* name, void* data);
/** The number of tensors that take a gradient (roles average and ignore, aliases left out). */
polyak_status polyak_parameters_trained(const polyak_parameters* list, size_t* count);
/** Null is allowed, here and in the other functions that destroy. */
void polyak_parameters_destroy(polyak_parameters* list);

/* ---- optimizers ---- */

/** An option as text: {"learning_rate", "1e-3"}, {"nesterov", "true"}, {"accumulate", "kahan"}. */
typedef struct polyak_option {
  const char* name;
  const char* value;
} polyak_option;

typedef struct polyak_optimizer polyak_optimizer;
typedef struct polyak_average polyak_average;

/**
 * Makes the optimizer `method`: "Sgd", "AdamW", "AdEMAMix", "Lion" or "ScheduleFreeAdamW". Its
 * options are the fields of the struct of that name in C++ (SgdOptions, AdamWOptions, ...), with
 * the same defaults. An unknown name is refused with a list of those that there are. `options` may
 * be null if `count` is 0.
 */
polyak_status polyak_optimizer_create(const polyak_parameters* list, const char* method,
                                      const polyak_option* options, size_t count,
                                      polyak_optimizer** optimizer);
void polyak_optimizer_destroy(polyak_optimizer* optimizer);

/** Multiplies learning rate and weight decay of the tensors whose names match `pattern` ("*.bias").
 * A later group takes the tensors that it shares with an earlier one. */
polyak_status polyak_optimizer_group(polyak_optimizer* optimizer, const char* pattern,
                                     double learning_rate_factor, double weight_decay_factor);
/** Sets the learning rate from the next step on; finite, >= 0. Groups multiply it. */
polyak_status polyak_optimizer_set_learning_rate(polyak_optimizer* optimizer, double rate);
polyak_status polyak_optimizer_get_learning_rate(const polyak_optimizer* optimizer, double* rate);
/** From the next step on, gradients are read multiplied by `scale`, >= 0: 1 / loss scale, or 1 / n
 * for gradients summed over n batches. Their memory is not changed. */
polyak_status polyak_optimizer_scale_gradients(polyak_optimizer* optimizer, double scale);
/** From the next step on, gradients (after the scale) are clipped to this norm of all of them, >=
 * 0. Infinity, the default, clips nothing and saves the pass that computes the norm. */
polyak_status polyak_optimizer_clip_norm(polyak_optimizer* optimizer, double max_norm);
/** The norm of the gradients of the last step, before clipping; POLYAK_WRONG_ORDER if no step has
 * clipped. */
polyak_status polyak_optimizer_gradient_norm(const polyak_optimizer* optimizer, double* norm);
/** The number of steps made. */
polyak_status polyak_optimizer_steps(const polyak_optimizer* optimizer, int64_t* steps);

/**
 * One step of the optimizer, then one update of each average, in one pass over memory. The bits are
 * those of separate calls.
 *
 * `gradients` has a pointer for each tensor that takes a gradient, in the order of the list: null,
 * for no gradient in this step, or memory of the list's type and the tensor's shape and order.
 * Averages must be of the same list; `averages` may be null if `average_count` is 0.
 *
 * `complete` may be null. It is set to 0 where the option nonfinite = skip_step skipped the step or
 * an average, else to 1.
 */
polyak_status polyak_step(polyak_optimizer* optimizer, const void* const* gradients,
                          size_t gradient_count, polyak_average* const* averages,
                          size_t average_count, int* complete);

/* ---- averages ---- */

/** Makes the average `method`: "Ema", "PowerEma" or "Swa". Options as for optimizers. */
polyak_status polyak_average_create(const polyak_parameters* list, const char* method,
                                    const polyak_option* options, size_t count,
                                    polyak_average** average);
void polyak_average_destroy(polyak_average* average);

/** Updates averages of one list with its current weights, in one pass. `complete` as in
 * polyak_step(). */
polyak_status polyak_update(polyak_average* const* averages, size_t count, int* complete);
/** The number of updates that changed the average. */
polyak_status polyak_average_updates(const polyak_average* average, int64_t* updates);
/** Writes the average, and the buffers as it keeps them, into another list of the same tensors. */
polyak_status polyak_average_copy_to(const polyak_average* average, polyak_parameters* target);

/* ---- evaluating an average ---- */

/** While a guard lives, the model's memory holds an average. */
typedef struct polyak_guard polyak_guard;

/** Puts the average into the model's memory. Until polyak_swap_out(), steps, updates and further
 * guards on that memory are refused. */
polyak_status polyak_average_swap_in(polyak_average* average, polyak_guard** guard);
/** The same for the average that a Schedule-Free optimizer has of its own. */
polyak_status polyak_optimizer_swap_in(polyak_optimizer* optimizer, polyak_guard** guard);
/** Gives the model its own weights back, bit for bit, and destroys the guard. */
void polyak_swap_out(polyak_guard* guard);

/* ---- memory ---- */

/** One array of a method's state. */
typedef struct polyak_slot {
  char name[32];
  polyak_dtype dtype;
  size_t elements; /**< without padding */
  size_t bytes;    /**< with padding */
} polyak_slot;

/**
 * Reports the state of a method: all its bytes in `total`, the number of its slots in `count`, and
 * as many of them as `capacity` allows in `slots`. Any of the three may be null.
 */
polyak_status polyak_optimizer_memory(const polyak_optimizer* optimizer, polyak_slot* slots,
                                      size_t capacity, size_t* count, size_t* total);
polyak_status polyak_average_memory(const polyak_average* average, polyak_slot* slots,
                                    size_t capacity, size_t* count, size_t* total);

/* ---- files: safetensors ---- */

/**
 * Saves a run: the weights, and the state of an optimizer (may be null) and of averages of the same
 * list. The file is replaced at once when the new one is complete.
 */
polyak_status polyak_save(const char* path, const polyak_parameters* list,
                          const polyak_optimizer* optimizer, const polyak_average* const* averages,
                          size_t average_count);
/**
 * Loads the file of polyak_save() into objects that were created in the same way and have not been
 * used. The run continues bit for bit. An error lists all differences of names, shapes, types and
 * options.
 */
polyak_status polyak_load(const char* path, polyak_parameters* list, polyak_optimizer* optimizer,
                          polyak_average* const* averages, size_t average_count);
/** Writes the weights alone, for other programs. */
polyak_status polyak_save_weights(const char* path, const polyak_parameters* list);
/** Writes the model with the average in place of its weights. */
polyak_status polyak_save_average(const char* path, const polyak_average* average);
/** Reads weights from a file of any program; floating-point numbers are rounded to the list's
 * type. */
polyak_status polyak_load_weights(const char* path, polyak_parameters* list);

#ifdef __cplusplus
}
#endif

#endif /* POLYAK_INTEROP_C_H */
