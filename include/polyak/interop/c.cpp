// SPDX-License-Identifier: Apache-2.0
/// @file
/// Defines the functions of <polyak/interop/c.h>. It lies beside its header, and not in a folder of
/// sources, because it is installed with the headers: a program compiles it with its own compiler
/// and its own switches, as it does with the rest of the library.
///
/// Methods of any type are called through small virtual classes. A step gives the driver of
/// core/step.hpp its methods in an array, so that their number and types are known at run time
/// only. An optimizer and one average share a loop as in a C++ program; further averages run in
/// turn on blocks that the cache holds. The bits are the same.
///
/// A program that has weights of few types compiles it sooner with POLYAK_C_LEAVES_OUT_FLOAT16,
/// POLYAK_C_LEAVES_OUT_BFLOAT16 or POLYAK_C_LEAVES_OUT_FLOAT64 defined as true; lists of these are
/// then refused. By -O0 for one level, float alone takes 16 s, float64 11 s more, each 16-bit type
/// 20 s more.
///
/// Above 300 lines: it is one file to compile.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/interop/c.h>
#include <polyak/average/ema.hpp>
#include <polyak/average/engine/swap.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/compiled.hpp>
#include <polyak/core/clip.hpp>
#include <polyak/core/option_setter.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/weights.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/sgd.hpp>

#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "polyak/interop/c.cpp needs exceptions: it turns them into error codes"
#endif

#if !defined(POLYAK_C_LEAVES_OUT_FLOAT16)
#define POLYAK_C_LEAVES_OUT_FLOAT16 false
#endif
#if !defined(POLYAK_C_LEAVES_OUT_BFLOAT16)
#define POLYAK_C_LEAVES_OUT_BFLOAT16 false
#endif
#if !defined(POLYAK_C_LEAVES_OUT_FLOAT64)
#define POLYAK_C_LEAVES_OUT_FLOAT64 false
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace c_interface {

using detail::refuse_argument;
using detail::refuse_order;
using detail::refuse_value;

/// Refuses a null argument by its name.
template <class T>
T& needed(T* argument, std::string_view name) {
  if (argument == nullptr) refuse_value("polyak: " + std::string(name) + " must not be null");
  return *argument;
}
inline std::string_view needed_text(const char* argument, std::string_view name) {
  return std::string_view(&needed(argument, name));
}
/// An array of the caller's, which may be null if it is empty.
template <class T>
std::span<T> needed_array(T* first, std::size_t count, std::string_view name) {
  if (count > 0) static_cast<void>(needed(first, name));
  return {first, count};
}

// ---- options ----------------------------------------------------------------------------------

template <class Options>
Options read_options(std::span<const polyak_option> given) {
  OptionValues values;
  for (const polyak_option& one : given) {
    const std::string name(needed_text(one.name, "the name of an option"));
    if (!values.emplace(name, needed_text(one.value, "the value of an option")).second) {
      refuse_argument("an option may be given once only", name);
    }
  }
  return detail::options_from<Options>(values);
}

// ---- objects ----------------------------------------------------------------------------------

/// A list of any type of weights.
class List : public std::enable_shared_from_this<List> {
 public:
  explicit List(DType weights) : weights_(weights) {}
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  virtual ~List() = default;

  [[nodiscard]] DType weights() const { return weights_; }
  virtual void rebind(std::string_view name, void* data) = 0;
  [[nodiscard]] virtual std::size_t trained() const = 0;
  virtual std::unique_ptr<polyak_optimizer> optimizer(std::string_view method,
                                                      std::span<const polyak_option> options) = 0;
  virtual std::unique_ptr<polyak_average> average(std::string_view method,
                                                  std::span<const polyak_option> options) = 0;
  virtual bool update(std::span<polyak_average* const> averages) = 0;
  virtual void record(detail::StateRecord& all) const = 0;
  virtual void add_places(detail::StatePlaces& all) = 0;
  virtual void save_weights(const std::filesystem::path& path) const = 0;
  virtual void load_weights(const std::filesystem::path& path) = 0;

 private:
  DType weights_;
};

/// What optimizers and averages have in common.
class MethodHandle {
 public:
  explicit MethodHandle(std::shared_ptr<List> list) : list_(std::move(list)) {}
  MethodHandle(const MethodHandle&) = delete;
  MethodHandle& operator=(const MethodHandle&) = delete;
  virtual ~MethodHandle() = default;

  [[nodiscard]] List& list() const { return *list_; }
  [[nodiscard]] virtual std::int64_t count() const = 0;
  [[nodiscard]] virtual bool started() const = 0;
  [[nodiscard]] virtual MemoryReport memory() const = 0;
  [[nodiscard]] virtual SwapGuard swap_in() = 0;
  virtual void record(detail::StateRecord& all) const = 0;
  virtual void add_places(detail::StatePlaces& all) = 0;

 private:
  std::shared_ptr<List> list_;
};

}  // namespace c_interface
}  // namespace POLYAK_V0
}  // namespace polyak

struct polyak_parameters {
  std::shared_ptr<polyak::c_interface::List> list;
};

struct polyak_optimizer : polyak::c_interface::MethodHandle {
  using MethodHandle::MethodHandle;
  virtual void group(const polyak::Selection& selection, const polyak::GroupOptions& group) = 0;
  virtual void set_learning_rate(double rate) = 0;
  [[nodiscard]] virtual double learning_rate() const = 0;
  virtual void scale_gradients(double scale) = 0;
  virtual void clip(double max_norm) = 0;
  [[nodiscard]] virtual double gradient_norm() const = 0;
  virtual bool step(std::span<const void* const> gradients,
                    std::span<polyak_average* const> averages) = 0;
};

struct polyak_average : polyak::c_interface::MethodHandle {
  using MethodHandle::MethodHandle;
  virtual void copy_to(polyak::c_interface::List& target) const = 0;
  virtual void save(const std::filesystem::path& path) const = 0;
};

struct polyak_guard {
  polyak::SwapGuard guard;
};

namespace polyak {
inline namespace POLYAK_V0 {
namespace c_interface {

/// An average of a list of P.
template <class P>
class AverageOn : public polyak_average {
 public:
  using polyak_average::polyak_average;
  /// The method as a step calls it.
  [[nodiscard]] virtual detail::StepMethod<P> part() = 0;
};

template <class P>
class ListOf final : public List {
 public:
  ListOf() : List(detail::dtype_of<P>()) {}

  [[nodiscard]] Parameters<P>& params() { return params_; }
  [[nodiscard]] const Parameters<P>& params() const { return params_; }

  void add(const polyak_tensor& tensor);
  void rebind(std::string_view name, void* data) override;
  [[nodiscard]] std::size_t trained() const override { return Gradients<P>(params_).trained(); }
  std::unique_ptr<polyak_optimizer> optimizer(std::string_view method,
                                              std::span<const polyak_option> options) override;
  std::unique_ptr<polyak_average> average(std::string_view method,
                                          std::span<const polyak_option> options) override;
  bool update(std::span<polyak_average* const> averages) override;
  void record(detail::StateRecord& all) const override { detail::record_part(all, params_); }
  void add_places(detail::StatePlaces& all) override { detail::add_places(all, params_); }
  void save_weights(const std::filesystem::path& path) const override {
    polyak::save_weights(path, params_);
  }
  void load_weights(const std::filesystem::path& path) override {
    polyak::load_weights(path, params_);
  }

 private:
  template <class M, class Options>
  std::unique_ptr<polyak_optimizer> make_optimizer(std::span<const polyak_option> options);
  template <class M, class Options>
  std::unique_ptr<polyak_average> make_average(std::span<const polyak_option> options);

  Parameters<P> params_;
};

static_assert(static_cast<int>(DType::boolean) == POLYAK_BOOL &&
              static_cast<int>(DType::uint64) == POLYAK_UINT64 &&
              static_cast<int>(DType::float16) == POLYAK_FLOAT16 &&
              static_cast<int>(DType::float64) == POLYAK_FLOAT64);
static_assert(static_cast<int>(Role::average) == POLYAK_ROLE_AVERAGE &&
              static_cast<int>(Role::frozen) == POLYAK_ROLE_FROZEN);

/// Whether an enum from C has one of the values 0 to `last`. Its bits may be any.
template <class E>
void require_enum(const E& value, int last, std::string_view rule) {
  int number = 0;
  static_assert(sizeof number == sizeof value);
  std::memcpy(&number, &value, sizeof number);
  require(number >= 0 && number <= last, rule, number);
}

inline void require_aligned(std::string_view name, DType dtype, const void* data) {
  if (reinterpret_cast<std::uintptr_t>(data) % detail::bytes_of(dtype) == 0) return;
  refuse_argument("the memory of tensor \"" + std::string(name) + "\" must be aligned to",
                  detail::bytes_of(dtype));
}

template <class P>
void ListOf<P>::add(const polyak_tensor& tensor) {
  const std::string name(needed_text(tensor.name, "the name of a tensor"));
  require_enum(tensor.dtype, POLYAK_FLOAT64,
               "the dtype of tensor \"" + name + "\" must be one of polyak_dtype");
  require_enum(tensor.role, POLYAK_ROLE_FROZEN,
               "the role of tensor \"" + name + "\" must be one of polyak_role");
  require_enum(tensor.order, POLYAK_COLUMN_MAJOR,
               "the order of tensor \"" + name + "\" must be one of polyak_order");
  const auto dtype = static_cast<DType>(tensor.dtype);
  require_aligned(name, dtype, tensor.data);
  const auto shape =
      needed_array(tensor.shape, tensor.rank, "the shape of tensor \"" + name + "\"");
  params_.add(name, tensor.data, dtype, Shape(shape.begin(), shape.end()),
              static_cast<Role>(tensor.role),
              tensor.order == POLYAK_ROW_MAJOR ? Order::row_major : Order::column_major);
}

template <class P>
void ListOf<P>::rebind(std::string_view name, void* data) {
  const DType dtype = params_.at(name).info().dtype;
  require_aligned(name, dtype, data);
  params_.rebind(name, data, dtype);
}

// ---- steps ------------------------------------------------------------------------------------

/// An optimizer and 15 averages, or 16 averages.
inline constexpr std::size_t most_methods = 16;

template <class M>
using UsualLaw = typename detail::VariantsOf<decltype(std::declval<const M&>().bind())>::Usual;
/// Averages of all weightings have the same one.
template <class P>
using UsualAverage = UsualLaw<Ema<P>>;

/// The loop of the first two of a step's methods.
template <class P>
using PairOfMethods = typename detail::Sweep<P>::Plan::Shared;
template <class P, class First>
PairOfMethods<P> pair_with_average() {
  return {3, false, detail::Sweep<P>::template shared_loop<First, UsualAverage<P>>()};
}

/// The methods of one step.
template <class P>
class Methods {
 public:
  void add(const detail::StepMethod<P>& method) { methods_[count_++] = method; }
  /// Adds averages, which must be of this list.
  void add(std::span<polyak_average* const> averages, const List& list) {
    if (averages.size() + count_ > most_methods) {
      refuse_argument("one call takes at most 16 methods", averages.size() + count_);
    }
    for (polyak_average* average : averages) {
      if (&needed(average, "an average").list() != &list) {
        refuse_value("polyak: the averages of one call must be of the same list of parameters");
      }
      add(static_cast<AverageOn<P>&>(*average).part());
    }
  }
  /// See polyak::step and polyak::update.
  bool run(const Parameters<P>& params, const Gradients<P>* gradients, PairOfMethods<P> pair) {
    detail::check_lists(params, gradients);
    detail::Sweep<P>::check(serial, params);
    const ExecutorRef executor(serial);
    typename detail::StepParts<P>::Plan::Single singles[most_methods];
    const void* usual[most_methods];
    alignas(detail::cache_line) std::byte bound[most_methods][detail::most_bound_bytes];
    const detail::StepParts<P> parts{std::span(methods_).first(count_), singles,
                                     std::span(&pair, count_ == 2 ? 1 : 0), usual, bound};
    return detail::StepDriver<P>(executor, params, gradients, parts).check_and_advance();
  }

 private:
  std::array<detail::StepMethod<P>, most_methods> methods_{};
  std::size_t count_ = 0;
};

template <class P>
bool ListOf<P>::update(std::span<polyak_average* const> averages) {
  Methods<P> methods;
  methods.add(averages, *this);
  return methods.run(params_, nullptr, pair_with_average<P, UsualAverage<P>>());
}

template <class M>
class Average final : public AverageOn<typename M::Parameter> {
  using P = typename M::Parameter;

 public:
  template <class Options>
  Average(std::shared_ptr<List> list, const Parameters<P>& params, const Options& options)
      : AverageOn<P>(std::move(list)), params_(params), method_(params, options) {}

  [[nodiscard]] detail::StepMethod<P> part() override {
    return {&method_, &detail::TableOf<P, M>::table, {}};
  }
  [[nodiscard]] std::int64_t count() const override { return method_.count(); }
  [[nodiscard]] bool started() const override { return detail::has_started(method_, Parts::all); }
  [[nodiscard]] MemoryReport memory() const override { return method_.memory_report(); }
  [[nodiscard]] SwapGuard swap_in() override { return method_.swap_into(params_); }
  void copy_to(List& target) const override {
    if (target.weights() != detail::dtype_of<P>()) {
      refuse_argument(
          "the target must be a list of " + std::string(detail::name_of(detail::dtype_of<P>())),
          detail::name_of(target.weights()));
    }
    method_.copy_to(static_cast<ListOf<P>&>(target).params());
  }
  void save(const std::filesystem::path& path) const override {
    save_average(path, params_, method_);
  }
  void record(detail::StateRecord& all) const override { detail::record_part(all, method_); }
  void add_places(detail::StatePlaces& all) override { detail::add_places(all, method_); }

 private:
  const Parameters<P>& params_;  // of the list
  M method_;
};

template <class M>
class Optimizer final : public polyak_optimizer {
  using P = typename M::Parameter;

 public:
  template <class Options>
  Optimizer(std::shared_ptr<List> list, const Parameters<P>& params, const Options& options)
      : polyak_optimizer(std::move(list)),
        params_(params),
        method_(params, options),
        gradients_(params),
        pointers_(gradients_.trained()) {}

  [[nodiscard]] std::int64_t count() const override { return method_.count(); }
  [[nodiscard]] bool started() const override { return detail::has_started(method_, Parts::all); }
  [[nodiscard]] MemoryReport memory() const override { return method_.memory_report(); }
  [[nodiscard]] SwapGuard swap_in() override {
    if constexpr (requires { method_.swap_into(params_); }) {
      return method_.swap_into(params_);
    } else {
      refuse_argument("only Schedule-Free optimizers have an average of their own", M::type_name);
    }
  }
  void record(detail::StateRecord& all) const override { detail::record_part(all, method_); }
  void add_places(detail::StatePlaces& all) override { detail::add_places(all, method_); }

  void group(const Selection& selection, const GroupOptions& options) override {
    method_.group(selection, options);
  }
  void set_learning_rate(double rate) override { method_.at(rate); }
  [[nodiscard]] double learning_rate() const override { return method_.learning_rate(); }
  void scale_gradients(double scale) override { gradients_.scale(scale); }
  void clip(double max_norm) override {
    require(max_norm >= 0, "max_norm must be >= 0", max_norm);
    if (max_norm < detail::infinite) {
      if (!workspace_) workspace_.emplace(gradients_);
    } else {
      workspace_.reset();
      gradients_.scale(gradients_.scale());  // without the last coefficient
    }
    max_norm_ = max_norm;
  }
  [[nodiscard]] double gradient_norm() const override {
    if (!norm_) refuse_order("polyak: no step of this optimizer has clipped its gradients");
    return *norm_;
  }
  bool step(std::span<const void* const> gradients,
            std::span<polyak_average* const> averages) override {
    Methods<P> methods;
    methods.add({&method_, &detail::TableOf<P, M>::table, {}});
    methods.add(averages, list());
    if (gradients.size() != pointers_.size()) {
      refuse_argument("the number of gradients must be " + detail::text(pointers_.size()) +
                          ", one for each tensor that is trained",
                      gradients.size());
    }
    std::transform(gradients.begin(), gradients.end(), pointers_.begin(),
                   [](const void* one) { return static_cast<const P*>(one); });
    gradients_.set_all(pointers_);
    std::optional<double> norm;
    if (workspace_) {
      detail::check_lists(params_, &gradients_);
      norm = clip_norm(serial, gradients_, max_norm_, *workspace_);
    }
    const bool complete = methods.run(params_, &gradients_, pair_with_average<P, UsualLaw<M>>());
    norm_ = norm;
    return complete;
  }

 private:
  const Parameters<P>& params_;  // of the list
  M method_;
  Gradients<P> gradients_;
  std::vector<const P*> pointers_;            // of each trained tensor
  std::optional<Reduction<Norm>> workspace_;  // while gradients are clipped
  double max_norm_ = detail::infinite;
  std::optional<double> norm_;
};

template <class P>
template <class M, class Options>
std::unique_ptr<polyak_optimizer> ListOf<P>::make_optimizer(
    std::span<const polyak_option> options) {
  return std::make_unique<Optimizer<M>>(shared_from_this(), params_,
                                        read_options<Options>(options));
}
template <class P>
template <class M, class Options>
std::unique_ptr<polyak_average> ListOf<P>::make_average(std::span<const polyak_option> options) {
  return std::make_unique<Average<M>>(shared_from_this(), params_, read_options<Options>(options));
}

template <class P>
std::unique_ptr<polyak_optimizer> ListOf<P>::optimizer(std::string_view method,
                                                       std::span<const polyak_option> options) {
  if (method == "Sgd") return make_optimizer<Sgd<P>, SgdOptions>(options);
  if (method == "AdamW") return make_optimizer<AdamW<P>, AdamWOptions>(options);
  if (method == "AdEMAMix") return make_optimizer<AdEMAMix<P>, AdEMAMixOptions>(options);
  if (method == "Lion") return make_optimizer<Lion<P>, LionOptions>(options);
  if (method == "ScheduleFreeAdamW") {
    return make_optimizer<ScheduleFreeAdamW<P>, ScheduleFreeAdamWOptions>(options);
  }
  refuse_argument("the optimizer must be Sgd, AdamW, AdEMAMix, Lion or ScheduleFreeAdamW", method);
}
template <class P>
std::unique_ptr<polyak_average> ListOf<P>::average(std::string_view method,
                                                   std::span<const polyak_option> options) {
  if (method == "Ema") return make_average<Ema<P>, EmaOptions>(options);
  if (method == "PowerEma") return make_average<PowerEma<P>, PowerEmaOptions>(options);
  if (method == "Swa") return make_average<Swa<P>, SwaOptions>(options);
  refuse_argument("the average must be Ema, PowerEma or Swa", method);
}

/// Lists of weights of P, unless the program left that type out.
template <class P, bool LeftOut>
std::shared_ptr<List> list_unless(std::span<const polyak_tensor> tensors) {
  if constexpr (LeftOut) {
    refuse_argument("this build of polyak/interop/c.cpp leaves out weights of the type",
                    detail::name_of(detail::dtype_of<P>()));
  } else {
    auto list = std::make_shared<ListOf<P>>();
    for (const polyak_tensor& tensor : tensors) list->add(tensor);
    return list;
  }
}
inline std::shared_ptr<List> list_of(polyak_dtype weights, std::span<const polyak_tensor> tensors) {
  switch (static_cast<int>(weights)) {
    case POLYAK_FLOAT16:
      return list_unless<Eigen::half, POLYAK_C_LEAVES_OUT_FLOAT16>(tensors);
    case POLYAK_BFLOAT16:
      return list_unless<Eigen::bfloat16, POLYAK_C_LEAVES_OUT_BFLOAT16>(tensors);
    case POLYAK_FLOAT32:
      return list_unless<float, false>(tensors);
    case POLYAK_FLOAT64:
      return list_unless<double, POLYAK_C_LEAVES_OUT_FLOAT64>(tensors);
    default:
      refuse_argument(
          "the type of weights must be POLYAK_FLOAT16, POLYAK_BFLOAT16, POLYAK_FLOAT32 or "
          "POLYAK_FLOAT64",
          static_cast<int>(weights));
  }
}

// ---- files and reports ------------------------------------------------------------------------

/// Calls use(method) for an optimizer, which may be null, and averages, all of this list.
template <class O, class A, class Use>
void each_method(const List& list, O* optimizer, std::span<A* const> averages, Use use) {
  std::vector<const void*> seen;
  const auto visit = [&](auto& method) {
    if (&method.list() != &list) {
      refuse_value("polyak: the methods of one file must be of the same list of parameters");
    }
    seen.push_back(&method);
    use(method);
  };
  if (optimizer != nullptr) visit(*optimizer);
  for (A* average : averages) visit(needed(average, "an average"));
  detail::require_distinct(seen);
}

inline void report_memory(const MemoryReport& report, polyak_slot* slots, std::size_t capacity,
                          std::size_t* count, std::size_t* total) {
  const std::size_t written = slots == nullptr ? 0 : std::min(capacity, report.slots.size());
  for (std::size_t k = 0; k < written; ++k) {
    const MemoryReport::Slot& from = report.slots[k];
    polyak_slot& to = slots[k];
    to = {};
    from.name.copy(to.name, sizeof to.name - 1);
    to.dtype = static_cast<polyak_dtype>(from.dtype);
    to.elements = from.elements;
    to.bytes = from.bytes;
  }
  if (count != nullptr) *count = report.slots.size();
  if (total != nullptr) *total = report.total;
}

// ---- errors -----------------------------------------------------------------------------------

/// The message of the last failure in this thread. If there is no memory for it, its beginning.
class LastError {
 public:
  [[nodiscard]] const char* text() const { return whole_.empty() ? part_ : whole_.c_str(); }
  void set(const char* message) noexcept {
    try {
      whole_ = message;
    } catch (...) {
      whole_.clear();
      std::strncpy(part_, message, sizeof part_ - 1);
    }
  }

 private:
  std::string whole_;
  char part_[256] = {};
};
inline LastError& last_error() {
  thread_local LastError error;
  return error;
}

/// Calls use() and turns an exception into its code and its message.
template <class Use>
polyak_status guarded(Use use) noexcept {
  const auto failed = [](polyak_status status, const char* message) {
    last_error().set(message);
    return status;
  };
  try {
    use();
    return POLYAK_OK;
  } catch (const nonfinite_error& error) {
    return failed(POLYAK_NONFINITE, error.what());
  } catch (const io_error& error) {
    return failed(POLYAK_IO_ERROR, error.what());
  } catch (const std::system_error& error) {
    return failed(POLYAK_IO_ERROR, error.what());
  } catch (const std::invalid_argument& error) {
    return failed(POLYAK_INVALID_ARGUMENT, error.what());
  } catch (const std::length_error&) {
    return failed(POLYAK_OUT_OF_MEMORY, "polyak: out of memory");
  } catch (const std::logic_error& error) {
    return failed(POLYAK_WRONG_ORDER, error.what());
  } catch (const std::bad_alloc&) {
    return failed(POLYAK_OUT_OF_MEMORY, "polyak: out of memory");
  } catch (const std::exception& error) {
    return failed(POLYAK_UNKNOWN, error.what());
  } catch (...) {
    return failed(POLYAK_UNKNOWN, "polyak: an exception of unknown type");
  }
}

}  // namespace c_interface
}  // namespace POLYAK_V0
}  // namespace polyak

namespace c = polyak::c_interface;

const char* polyak_last_error(void) { return c::last_error().text(); }

// ---- lists

polyak_status polyak_parameters_create(polyak_dtype weights, const polyak_tensor* tensors,
                                       size_t count, polyak_parameters** list) {
  return c::guarded([&] {
    auto& out = c::needed(list, "list");
    out = new polyak_parameters{c::list_of(weights, c::needed_array(tensors, count, "tensors"))};
  });
}
polyak_status polyak_parameters_rebind(polyak_parameters* list, const char* name, void* data) {
  return c::guarded(
      [&] { c::needed(list, "list").list->rebind(c::needed_text(name, "name"), data); });
}
polyak_status polyak_parameters_trained(const polyak_parameters* list, size_t* count) {
  return c::guarded([&] { c::needed(count, "count") = c::needed(list, "list").list->trained(); });
}
void polyak_parameters_destroy(polyak_parameters* list) { delete list; }

// ---- optimizers

polyak_status polyak_optimizer_create(const polyak_parameters* list, const char* method,
                                      const polyak_option* options, size_t count,
                                      polyak_optimizer** optimizer) {
  return c::guarded([&] {
    auto& out = c::needed(optimizer, "optimizer");
    out = c::needed(list, "list")
              .list
              ->optimizer(c::needed_text(method, "method"),
                          c::needed_array(options, count, "options"))
              .release();
  });
}
void polyak_optimizer_destroy(polyak_optimizer* optimizer) { delete optimizer; }

polyak_status polyak_optimizer_group(polyak_optimizer* optimizer, const char* pattern,
                                     double learning_rate_factor, double weight_decay_factor) {
  return c::guarded([&] {
    c::needed(optimizer, "optimizer")
        .group(polyak::named(std::string(c::needed_text(pattern, "pattern"))),
               {.learning_rate_factor = learning_rate_factor,
                .weight_decay_factor = weight_decay_factor});
  });
}
polyak_status polyak_optimizer_set_learning_rate(polyak_optimizer* optimizer, double rate) {
  return c::guarded([&] { c::needed(optimizer, "optimizer").set_learning_rate(rate); });
}
polyak_status polyak_optimizer_get_learning_rate(const polyak_optimizer* optimizer, double* rate) {
  return c::guarded(
      [&] { c::needed(rate, "rate") = c::needed(optimizer, "optimizer").learning_rate(); });
}
polyak_status polyak_optimizer_scale_gradients(polyak_optimizer* optimizer, double scale) {
  return c::guarded([&] { c::needed(optimizer, "optimizer").scale_gradients(scale); });
}
polyak_status polyak_optimizer_clip_norm(polyak_optimizer* optimizer, double max_norm) {
  return c::guarded([&] { c::needed(optimizer, "optimizer").clip(max_norm); });
}
polyak_status polyak_optimizer_gradient_norm(const polyak_optimizer* optimizer, double* norm) {
  return c::guarded(
      [&] { c::needed(norm, "norm") = c::needed(optimizer, "optimizer").gradient_norm(); });
}
polyak_status polyak_optimizer_steps(const polyak_optimizer* optimizer, int64_t* steps) {
  return c::guarded([&] { c::needed(steps, "steps") = c::needed(optimizer, "optimizer").count(); });
}

polyak_status polyak_step(polyak_optimizer* optimizer, const void* const* gradients,
                          size_t gradient_count, polyak_average* const* averages,
                          size_t average_count, int* complete) {
  return c::guarded([&] {
    const bool all = c::needed(optimizer, "optimizer")
                         .step(c::needed_array(gradients, gradient_count, "gradients"),
                               c::needed_array(averages, average_count, "averages"));
    if (complete != nullptr) *complete = all ? 1 : 0;
  });
}

// ---- averages

polyak_status polyak_average_create(const polyak_parameters* list, const char* method,
                                    const polyak_option* options, size_t count,
                                    polyak_average** average) {
  return c::guarded([&] {
    auto& out = c::needed(average, "average");
    out =
        c::needed(list, "list")
            .list
            ->average(c::needed_text(method, "method"), c::needed_array(options, count, "options"))
            .release();
  });
}
void polyak_average_destroy(polyak_average* average) { delete average; }

polyak_status polyak_update(polyak_average* const* averages, size_t count, int* complete) {
  return c::guarded([&] {
    const auto all = c::needed_array(averages, count, "averages");
    polyak::require(count > 0, "update needs at least one average; their number", count);
    const bool done = c::needed(all.front(), "an average").list().update(all);
    if (complete != nullptr) *complete = done ? 1 : 0;
  });
}
polyak_status polyak_average_updates(const polyak_average* average, int64_t* updates) {
  return c::guarded([&] { c::needed(updates, "updates") = c::needed(average, "average").count(); });
}
polyak_status polyak_average_copy_to(const polyak_average* average, polyak_parameters* target) {
  return c::guarded(
      [&] { c::needed(average, "average").copy_to(*c::needed(target, "target").list); });
}

// ---- guards

polyak_status polyak_average_swap_in(polyak_average* average, polyak_guard** guard) {
  return c::guarded([&] {
    auto& out = c::needed(guard, "guard");
    out = new polyak_guard{c::needed(average, "average").swap_in()};
  });
}
polyak_status polyak_optimizer_swap_in(polyak_optimizer* optimizer, polyak_guard** guard) {
  return c::guarded([&] {
    auto& out = c::needed(guard, "guard");
    out = new polyak_guard{c::needed(optimizer, "optimizer").swap_in()};
  });
}
void polyak_swap_out(polyak_guard* guard) { delete guard; }

// ---- memory

polyak_status polyak_optimizer_memory(const polyak_optimizer* optimizer, polyak_slot* slots,
                                      size_t capacity, size_t* count, size_t* total) {
  return c::guarded([&] {
    c::report_memory(c::needed(optimizer, "optimizer").memory(), slots, capacity, count, total);
  });
}
polyak_status polyak_average_memory(const polyak_average* average, polyak_slot* slots,
                                    size_t capacity, size_t* count, size_t* total) {
  return c::guarded([&] {
    c::report_memory(c::needed(average, "average").memory(), slots, capacity, count, total);
  });
}

// ---- files

polyak_status polyak_save(const char* path, const polyak_parameters* list,
                          const polyak_optimizer* optimizer, const polyak_average* const* averages,
                          size_t average_count) {
  return c::guarded([&] {
    const auto file = c::needed_text(path, "path");
    const c::List& of = *c::needed(list, "list").list;
    polyak::detail::StateRecord all;
    of.record(all);
    c::each_method(of, optimizer, c::needed_array(averages, average_count, "averages"),
                   [&](const auto& method) { method.record(all); });
    polyak::detail::save_record(file, all, {});
  });
}
polyak_status polyak_load(const char* path, polyak_parameters* list, polyak_optimizer* optimizer,
                          polyak_average* const* averages, size_t average_count) {
  return c::guarded([&] {
    const auto file = c::needed_text(path, "path");
    c::List& of = *c::needed(list, "list").list;
    polyak::detail::StateRecord run;
    polyak::detail::StatePlaces places;
    of.record(run);
    of.add_places(places);
    c::each_method(of, optimizer, c::needed_array(averages, average_count, "averages"),
                   [&](auto& method) {
                     if (method.started()) {
                       polyak::detail::refuse_order(
                           "polyak: polyak_load() into a method that has been used already; load "
                           "before the first step");
                     }
                     method.record(run);
                     method.add_places(places);
                   });
    static_cast<void>(polyak::detail::load_record(file, run, places, {}));
  });
}
polyak_status polyak_save_weights(const char* path, const polyak_parameters* list) {
  return c::guarded(
      [&] { c::needed(list, "list").list->save_weights(c::needed_text(path, "path")); });
}
polyak_status polyak_save_average(const char* path, const polyak_average* average) {
  return c::guarded([&] { c::needed(average, "average").save(c::needed_text(path, "path")); });
}
polyak_status polyak_load_weights(const char* path, polyak_parameters* list) {
  return c::guarded(
      [&] { c::needed(list, "list").list->load_weights(c::needed_text(path, "path")); });
}
