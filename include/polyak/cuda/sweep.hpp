// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loops over lists on a device: one launch for all tensors with the same laws.
///
/// Scalars of a step are arguments of the launch. If they differ by tensor, an earlier launch
/// writes them to a table of laws. Tables of chunks and addresses are uploaded once for a list; if
/// only gradients moved, their addresses are also passed as arguments of a launch. So a step
/// allocates nothing, copies nothing from the host and waits for nothing. Methods are objects on
/// the host, with their clocks on the host and their slots on the device.
///
/// Above 300 lines: tables, launches and the driver of a step are one protocol between host and
/// device.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/sweep.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/cuda/error.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/launch.hpp>
#include <polyak/cuda/skipped_steps.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

// ---- a step in a captured graph ---------------------------------------------------------------

template <class Kernel>
inline constexpr char kernel_id = 0;

/// The sweeps of a captured step, and the place on the device from which a replay reads their
/// scalars.
struct Recording {
  struct RecordedLaunch {
    const void* kernel;
    std::shared_ptr<DeviceTable> table;
    std::size_t at;    ///< of its arguments, in bytes
    std::size_t laws;  ///< words of laws that differ by row, stored behind the arguments
    bool reads_gradient;
  };
  /// The offset of arguments that follow `size` words.
  [[nodiscard]] static constexpr std::size_t next_place(std::size_t size) {
    return (size + 1) / 2 * 16;
  }
  std::size_t planned = 0;                      ///< words
  std::size_t capacity = std::size_t{1} << 16;  ///< bytes of `block`
  enum class Mode : std::uint8_t {
    plan,     ///< makes the tables
    record,   ///< puts the launches into the graph
    prepare,  ///< records the scalars of the next replay
  };
  Mode mode = Mode::plan;
  bool differs = false;
  std::size_t next = 0;
  std::vector<RecordedLaunch> launches;
  std::vector<std::shared_ptr<DeviceTable>> copies;  ///< tables of buffers
  std::vector<std::uint64_t> words;
  std::byte* block = nullptr;
};

/// The recording and the marks of this thread's current call. Null outside of a call.
struct CallState {
  Recording* recording = nullptr;
  const unsigned* skip[2] = {nullptr, nullptr};
};
[[nodiscard]] inline CallState& call_state() {
  thread_local CallState state;
  return state;
}

/// Makes the launches of a call do nothing if one of the marks is set.
class Skip {
 public:
  Skip(const unsigned* first, const unsigned* second) {
    call_state().skip[0] = first;
    call_state().skip[1] = second;
  }
  Skip(const Skip&) = delete;
  Skip& operator=(const Skip&) = delete;
  ~Skip() { call_state().skip[0] = call_state().skip[1] = nullptr; }
};

/// Launches a sweep. `laws` are the words of laws that differ by row, and place_laws(memory) sets
/// their place in the kernel's arguments.
template <class Kernel, class PlaceLaws>
void launch_sweep(DeviceSpace& space, const std::shared_ptr<DeviceTable>& table, Kernel& kernel,
                  const std::vector<std::uint64_t>& gradients, bool reads_gradient,
                  const std::vector<std::uint64_t>& laws, const PlaceLaws& place_laws) {
  CallState& state = call_state();
  if (state.recording == nullptr) {
    if (reads_gradient) update_gradients(space, *table, gradients, false);
    if (!laws.empty()) place_laws(update_laws(space, *table, &kernel_id<Kernel>, laws));
    kernel.skip[0] = state.skip[0];
    kernel.skip[1] = state.skip[1];
    kernel.written = nullptr;
    space.await_readers();
    launch(space, kernel, table->chunks, "the launch of a step");
    return;
  }
  Recording& recording = *state.recording;
  constexpr std::size_t words = (sizeof kernel.arguments + 7) / 8;
  const auto take = [&](std::size_t at) {
    if (!laws.empty()) place_laws(recording.block + at + words * 8);
    std::memcpy(recording.words.data() + at / 8, &kernel.arguments, sizeof kernel.arguments);
    std::copy(laws.begin(), laws.end(),
              recording.words.begin() + static_cast<std::ptrdiff_t>(at / 8 + words));
  };
  if (recording.mode == Recording::Mode::plan) {
    recording.planned = Recording::next_place(recording.planned) / 8 + words + laws.size();
    return;
  }
  if (recording.mode == Recording::Mode::prepare) {
    const std::size_t k = recording.next++;
    if (k >= recording.launches.size() || recording.launches[k].kernel != &kernel_id<Kernel> ||
        recording.launches[k].table != table || recording.launches[k].laws != laws.size()) {
      recording.differs = true;
      return;
    }
    take(recording.launches[k].at);
    return;
  }
  const std::size_t at = Recording::next_place(recording.words.size());
  if (at + (words + laws.size()) * 8 > recording.capacity) {
    polyak::detail::refuse_order("polyak: too many passes for one captured step");
  }
  recording.words.resize(at / 8 + words + laws.size(), 0);
  take(at);
  recording.launches.push_back({&kernel_id<Kernel>, table, at, laws.size(), reads_gradient});
  if (reads_gradient) update_gradients(space, *table, gradients, true);
  kernel.skip[0] = kernel.skip[1] = nullptr;
  kernel.written = reinterpret_cast<decltype(kernel.written)>(recording.block + at);
  launch(space, kernel, table->chunks, "the launch of a captured step");
}

// ---- laws -------------------------------------------------------------------------------------

/// The kernel argument for pointers to bound laws, with the laws of the tensor `tensor`.
template <std::size_t I, class... B>
[[nodiscard]] auto chain_of(const polyak::detail::Members<const B*...>& bound, std::size_t tensor) {
  if constexpr (I == sizeof...(B)) {
    return Chain<>{};
  } else {
    const auto& one = *polyak::detail::member<I>(bound);
    using R = std::remove_cvref_t<decltype(one)>;
    const auto rest = chain_of<I + 1>(bound, tensor);
    return [&]<class... Rest>(const Chain<Rest...>& others) {
      Chain<R, Rest...> chain;
      std::memset(static_cast<void*>(&chain), 0, sizeof chain);  // bytes are compared
      chain.first.law = one.law_of(tensor);
      for (int k = 0; k < R::arrays; ++k) {
        chain.first.slots[k] = one.slots[static_cast<std::size_t>(k)];
      }
      chain.first.key = one.key;
      chain.rest = others;
      return chain;
    }(rest);
  }
}

/// The numbers of some tensors.
struct TensorNumbers {
  const std::uint32_t* numbers;
  std::size_t count;
};

/// Appends the table of a bound law with several laws for the rows of a sweep, then the law number
/// of each row. Returns the offsets of both, in words; none if one law is for all rows.
struct LawPlaces {
  static constexpr std::size_t none = ~std::size_t{0};
  std::size_t table = none, which = 0;
};
template <class B, class List>
[[nodiscard]] LawPlaces append_laws(const B& bound, const List& params,
                                    const TensorNumbers& tensors,
                                    std::vector<std::uint64_t>& words) {
  using Law = typename B::Law;
  if (bound.table == nullptr) return {};
  std::uint32_t last = 0;
  bool differ = false;
  for (std::size_t i = 0; i < tensors.count; ++i) {
    const std::uint32_t number = bound.which[tensors.numbers[i]];
    last = std::max(last, number);
    differ = differ || number != bound.which[tensors.numbers[0]];
  }
  if (!differ) return {};
  static_assert(std::is_trivially_copyable_v<Law> && alignof(Law) <= 8);
  LawPlaces places;
  places.table = words.size();
  places.which = places.table + ((last + std::size_t{1}) * sizeof(Law) + 7) / 8;
  words.resize(places.which, 0);
  auto* const laws = reinterpret_cast<std::byte*>(words.data() + places.table);
  for (std::uint32_t number = 0; number <= last; ++number) {
    std::memcpy(laws + number * sizeof(Law), &bound.law_at(number), sizeof(Law));
  }
  std::size_t row = 0;
  for (std::size_t i = 0; i < tensors.count; ++i) {
    const std::size_t k = tensors.numbers[i];
    if (params[k].size() == 0) continue;  // it has no row
    if (row % 2 == 0) words.push_back(0);
    words.back() |= std::uint64_t{bound.which[k]} << (row % 2 * 32);
    ++row;
  }
  return places;
}
/// Sets the places of its tables in a chain.
template <std::size_t N>
void place_tables(Chain<>&, const LawPlaces (&)[N], std::size_t, const std::byte*) {}
template <std::size_t N, class First, class... Rest>
void place_tables(Chain<First, Rest...>& chain, const LawPlaces (&places)[N], std::size_t first,
                  const std::byte* memory) {
  const LawPlaces& one = places[first];
  if (one.table != LawPlaces::none) {
    chain.first.table = reinterpret_cast<const typename First::Law*>(memory + one.table * 8);
    chain.first.which = reinterpret_cast<const std::uint32_t*>(memory + one.which * 8);
  }
  place_tables(chain.rest, places, first + 1, memory);
}

/// A type-erased launch of laws.
template <class T>
struct LaunchLoop {
  using List = polyak::Parameters<Device<T>>;
  void (*launch)(const void* bound, const List& params, const T* const* gradients,
                 const polyak::detail::GradientReading& reading,
                 const TensorNumbers& tensors) = nullptr;
  const void* bound = nullptr;
};

/// One launch of laws on some tensors.
template <class T, class... B>
void launch_laws(const polyak::detail::Members<const B*...>& bound,
                 const polyak::Parameters<Device<T>>& params, const T* const* gradients,
                 const polyak::detail::GradientReading& reading, const TensorNumbers& tensors) {
  using P = Device<T>;
  using Kernel = SweepKernel<T, B...>;
  DeviceSpace& space = space_of(*params.layout());
  auto& scratch = space.scratch();
  scratch.rows.clear();
  scratch.gradients.clear();
  for (std::size_t i = 0; i < tensors.count; ++i) {
    const std::size_t k = tensors.numbers[i];
    const polyak::detail::TensorMemory& memory = ParameterAccess<P>::memory_seen(params)[k];
    if (memory.size == 0) continue;
    scratch.rows.push_back(reinterpret_cast<std::uintptr_t>(memory.data));
    scratch.rows.push_back(memory.size);
    scratch.rows.push_back(k);
    each_member(bound, [&](const auto* one) {
      scratch.rows.push_back(one->offsets == nullptr ? 0 : one->offsets[k]);
    });
    if constexpr (Kernel::Sweep::any_reads_gradient) {
      scratch.gradients.push_back(reinterpret_cast<std::uintptr_t>(gradients[k]));
    }
  }
  if (scratch.rows.empty()) return;
  const auto table =
      space.table(scratch.rows, 3 + sizeof...(B), Kernel::Sweep::chunk, scratch.gradients);
  Kernel kernel;
  std::memset(static_cast<void*>(&kernel.arguments), 0, sizeof kernel.arguments);
  kernel.table = view_of<sizeof...(B)>(*table);
  kernel.arguments.laws = chain_of<0>(bound, tensors.numbers[0]);
  kernel.arguments.scale = static_cast<carrier_t<T>>(reading.scale);
  kernel.arguments.limit = static_cast<carrier_t<T>>(reading.limit);
  kernel.arguments.exact_scale = reading.scale;
  if (Kernel::Sweep::any_reads_gradient) kernel.arguments.coefficient = reading.coefficient;
  scratch.laws.clear();
  LawPlaces places[sizeof...(B)];
  std::size_t next = 0;
  each_member(bound, [&](const auto* one) {
    places[next++] = append_laws(*one, params, tensors, scratch.laws);
  });
  kernel.arguments.open = !scratch.laws.empty() || kernel.arguments.coefficient != nullptr;
  launch_sweep(
      space, table, kernel, scratch.gradients, Kernel::Sweep::any_reads_gradient, scratch.laws,
      [&](const std::byte* memory) { place_tables(kernel.arguments.laws, places, 0, memory); });
}

/// StepDriver for a device, which handles every policy except `error` without the host.
template <class StepDriver, class T>
class DeviceDriver : public StepDriver {
  using P = Device<T>;
  using Sweep = polyak::detail::Sweep<P>;
  using typename StepDriver::Chosen;

 public:
  using StepDriver::StepDriver;

  bool check_and_advance() {
    this->check();
    DeviceSpace& space = space_of(*this->params_.layout());
    const Chosen skips = with(Nonfinite::skip_step), throws = with(Nonfinite::error);
    if ((skips | throws) != 0 && space.capturing()) {
      polyak::detail::refuse_order(
          "polyak: a captured step of methods whose nonfinite is not Nonfinite::propagate");
    }
    for (const auto& m : this->methods_) settle_one(space, m.object, m.table->hooks.clocks);
    if (throws != 0 || skips == 0) return this->advance_all();
    advance_marked(space, skips);
    return true;
  }

 private:
  [[nodiscard]] Chosen with(Nonfinite policy) const {
    return this->all_of([&](const auto& m) { return m.facts.nonfinite == policy; });
  }

  /// The device skips according to the marks; the host reads the report before its next step.
  void advance_marked(DeviceSpace& space, Chosen skips) {
    await_report(space);  // of other methods: the report is to be used again
    unsigned* const marks = space.marks();
    const Chosen all = this->all_of([](const auto&) { return true; });
    const Chosen checked = skips & this->all_of([](const auto& m) { return !m.table->trains; });
    const bool gradients = (skips & ~checked) != 0;
    const Chosen waiting = this->waiting(all) & checked, now = all & ~waiting;
    const auto has = [](Chosen chosen, std::size_t i) { return (chosen >> i & 1) != 0; };
    for (std::size_t i = 0; i < this->methods_.size(); ++i) {
      const auto& m = this->methods_[i];
      if (!gradients && !has(checked, i)) continue;
      Waiting one;
      one.method = m.table->hooks.clocks.block(m.object);
      one.address = m.table->hooks.clocks.block(m.object).get();
      m.table->hooks.clocks.keep(m.object, one.before);
      one.marks[0] = gradients;
      one.marks[1] = has(checked & now, i);
      one.marks[2] = has(waiting, i);
      one.counts = m.facts.nonfinite == Nonfinite::skip_step;
      space.waiting.push_back(std::move(one));
    }
    const auto guarded = [&](Chosen chosen, const unsigned* mark) {
      const Skip skip(gradients ? marks : nullptr, mark);
      this->advance(chosen);
    };
    if (gradients) {
      Sweep::check_gradients(this->params_, this->gradients_,
                             polyak::detail::reading_of(this->list_), marks,
                             this->largest_gradients());
    }
    // Consecutive methods with the same checks: averages read the weights that earlier methods
    // wrote.
    for (std::size_t first = 0, last = 0; first < this->methods_.size(); first = last) {
      Chosen some = 0;
      while (last < this->methods_.size() && has(checked, last) == has(checked, first)) {
        some |= now & (Chosen{1} << last++);
      }
      if (some == 0) continue;
      const bool check = has(checked, first);
      if (check) Sweep::check_weights(this->params_, marks + 1, this->averaged());
      guarded(some, check ? marks + 1 : nullptr);
    }
    if (waiting != 0) {
      Sweep::check_weights(this->params_, marks + 2, this->averaged());
      guarded(waiting, marks + 2);
    }
    for (const auto& m : this->methods_) {
      for (Waiting& one : space.waiting) {
        if (one.address == m.table->hooks.clocks.block(m.object).get()) {
          m.table->hooks.clocks.keep(m.object, one.after);
        }
      }
    }
    launch(space, ReportKernel{marks, space.reported_on_device()}, 1,
           "the launch that reports a step");
    space.report_event().record(space.stream());
  }
};

}  // namespace detail
}  // namespace cuda

namespace detail {

template <class T>
struct Sweep<cuda::Device<T>> {
  using P = cuda::Device<T>;
  using Space = cuda::detail::DeviceSpace;
  using Loop = cuda::detail::LaunchLoop<T>;
  using Plan = SweepPlan<Loop>;
  template <class StepDriver>
  using Driver = cuda::detail::DeviceDriver<StepDriver, T>;
  struct Hooks {
    cuda::detail::ClockHooks clocks;
    template <class M>
    static constexpr Hooks of() {
      static_assert(!M::host_only,
                    "polyak: this method has no form for a device yet; keep its parameters on the "
                    "host");
      return {cuda::detail::ClockHooks::of<M>()};
    }
  };

  [[nodiscard]] static Space& space_of(const Parameters<P>& params) {
    return cuda::detail::space_of(*params.layout());
  }

  template <bool, class B>
  [[nodiscard]] static Loop loop(const B& bound) {
    return {[](const void* one, const Parameters<P>& params, const T* const* gradients,
               const polyak::detail::GradientReading& reading,
               const cuda::detail::TensorNumbers& tensors) {
              cuda::detail::launch_laws<T>(
                  polyak::detail::Members<const B*>{{{static_cast<const B*>(one)}}}, params,
                  gradients, reading, tensors);
            },
            &bound};
  }
  /// The caller sets `bound` to an array of the laws' addresses.
  template <class... B>
  [[nodiscard]] static constexpr Loop shared_loop() {
    return {[](const void* bound, const Parameters<P>& params, const T* const* gradients,
               const polyak::detail::GradientReading& reading,
               const cuda::detail::TensorNumbers& tensors) {
              cuda::detail::launch_laws<T>(polyak::detail::members_at<B...>(bound), params,
                                           gradients, reading, tensors);
            },
            nullptr};
  }

  template <class E>
  static void check(const E& executor, const Parameters<P>& params) {
    if constexpr (requires { executor.space(); }) {
      if (executor.space().get() != params.layout()->space.get()) {
        refuse_value("polyak: the parameters and the executor are in different memory");
      }
    }
  }

  /// Launches the loops for all tensors that any method runs on: one launch for all tensors with
  /// the same methods.
  static void over(const ExecutorRef&, const Parameters<P>& params, const T* const* gradients,
                   const polyak::detail::GradientReading& reading, const Plan& plan) {
    using Mask = typename Plan::Mask;
    auto& scratch = space_of(params).scratch();
    const auto methods_of = [&](std::size_t k) {
      return plan.methods_of(k, gradients != nullptr && gradients[k] != nullptr);
    };
    scratch.groups.assign(params.size(), 0);
    for (std::size_t first = 0; first < params.size(); ++first) {
      const Mask methods = methods_of(first);
      if (scratch.groups[first] != 0 || methods == 0) continue;
      scratch.order.clear();
      for (std::size_t k = first; k < params.size(); ++k) {
        if (scratch.groups[k] != 0 || methods_of(k) != methods) continue;
        scratch.groups[k] = 1;
        scratch.order.push_back(static_cast<std::uint32_t>(k));
      }
      const cuda::detail::TensorNumbers tensors{scratch.order.data(), scratch.order.size()};
      if (const Loop* const all = plan.loop_of_all(methods); all != nullptr) {
        all->launch(all->bound, params, gradients, reading, tensors);
        continue;
      }
      for (std::size_t i = 0; i < plan.single_count; ++i) {
        if ((methods >> i & 1) == 0) continue;
        const Loop& loop = plan.singles[i].loop;
        loop.launch(loop.bound, params, gradients, reading, tensors);
      }
    }
  }

  /// Runs one law over every tensor that its slots keep.
  template <class B>
  static void all(const ExecutorRef& executor, const Parameters<P>& params, const B& bound) {
    const typename Plan::Single single{bound.offsets, true, false, loop<false>(bound)};
    over(executor, params, nullptr, {}, Plan{&single, 1, nullptr, 0});
  }
  /// Runs one law over one tensor.
  template <class B>
  static void one(const Parameters<P>& params, std::size_t tensor, const B& bound) {
    const auto number = static_cast<std::uint32_t>(tensor);
    auto& state = cuda::detail::call_state();
    using Mode = cuda::detail::Recording::Mode;
    if (state.recording != nullptr && state.recording->mode == Mode::plan) return;
    if (state.recording != nullptr && state.recording->mode == Mode::record) {
      refuse_order(
          "polyak: a captured step in which the training of a tensor begins; make one ordinary "
          "step before capturing");
    }
    auto* const recording = std::exchange(state.recording, nullptr);
    cuda::detail::launch_laws<T>(polyak::detail::Members<const B*>{{{&bound}}}, params, nullptr, {},
                                 {&number, 1});
    state.recording = recording;
  }

  static void copy(const Parameters<P>& params, const std::vector<CopyPiece>& pieces) {
    Space& space = space_of(params);
    auto& scratch = space.scratch();
    scratch.rows.clear();
    scratch.gradients.clear();
    for (const CopyPiece& piece : pieces) {
      if (piece.bytes == 0) continue;
      scratch.rows.push_back(reinterpret_cast<std::uintptr_t>(piece.to));
      scratch.rows.push_back(piece.bytes);
      scratch.rows.push_back(0);
      scratch.rows.push_back(reinterpret_cast<std::uintptr_t>(piece.from));  // part of the key
      scratch.gradients.push_back(reinterpret_cast<std::uintptr_t>(piece.from));
    }
    if (scratch.rows.empty()) return;
    auto* const recording = cuda::detail::call_state().recording;
    const auto table =
        space.table(scratch.rows, 4, cuda::detail::CopyKernel::chunk, scratch.gradients);
    if (recording != nullptr) {
      if (recording->mode != cuda::detail::Recording::Mode::record) return;
      recording->copies.push_back(table);
    }
    space.await_readers();
    const auto& skip = cuda::detail::call_state().skip;
    cuda::detail::launch(
        space, cuda::detail::CopyKernel{cuda::detail::view_of<0>(*table), {skip[0], skip[1]}},
        table->chunks, "the launch that copies buffers");
  }

  // ---- NaN and infinity

  /// Checks the tensors k for which takes(k) is true, also buffers of other types than T.
  template <class Takes>
  static void check_weights(const Parameters<P>& params, unsigned* mark, const Takes& takes) {
    check_weights_of<float>(params, mark, takes);
    check_weights_of<double>(params, mark, takes);
    check_weights_of<Eigen::half>(params, mark, takes);
    check_weights_of<Eigen::bfloat16>(params, mark, takes);
  }
  /// Checks the gradients against most(k), the largest that tensor k may have as a step reads it.
  /// 0 leaves a tensor out.
  template <class Most>
  static void check_gradients(const Parameters<P>& params, const T* const* gradients,
                              const polyak::detail::GradientReading& reading, unsigned* mark,
                              const Most& most) {
    auto& scratch = space_of(params).scratch();
    scratch.rows.clear();
    scratch.gradients.clear();
    for (std::size_t k = 0; k < params.size(); ++k) {
      const double largest = gradients[k] == nullptr ? 0 : most(k);
      if (params[k].size() == 0 || largest == 0) continue;
      add_row(scratch, params[k], k, std::bit_cast<std::uint64_t>(largest));
      scratch.gradients.push_back(reinterpret_cast<std::uintptr_t>(gradients[k]));
    }
    using Kernel = cuda::detail::FiniteKernel<T>;
    launch_check(space_of(params),
                 Kernel{{}, true, mark, reading.scale, reading.limit, reading.coefficient});
  }
  template <class Takes>
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params, const Takes& takes) {
    Space& space = space_of(params);
    check_weights(params, space.marks(), takes);
    return clear_mark(space);
  }
  template <class Most>
  [[nodiscard]] static bool gradients_within(const Parameters<P>& params, const T* const* gradients,
                                             const polyak::detail::GradientReading& reading,
                                             const Most& most) {
    Space& space = space_of(params);
    check_gradients(params, gradients, reading, space.marks(), most);
    return clear_mark(space);
  }

 private:
  template <class Scratch>
  static void add_row(Scratch& scratch, const TensorRef<P>& tensor, std::size_t number,
                      std::uint64_t most) {
    scratch.rows.push_back(reinterpret_cast<std::uintptr_t>(tensor.raw()));
    scratch.rows.push_back(tensor.size());
    scratch.rows.push_back(number);
    scratch.rows.push_back(most);
  }
  template <class Number, class Takes>
  static void check_weights_of(const Parameters<P>& params, unsigned* mark, const Takes& takes) {
    auto& scratch = space_of(params).scratch();
    scratch.rows.clear();
    scratch.gradients.clear();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (params[k].size() == 0 || params[k].info().dtype != dtype_of<Number>() || !takes(k)) {
        continue;
      }
      add_row(scratch, params[k], k, 0);
    }
    launch_check(space_of(params), cuda::detail::FiniteKernel<Number>{{}, false, mark});
  }
  /// Launches a check of the rows in the scratch memory. Rows of gradients and of weights are in
  /// different tables, because only those of gradients have a limit.
  template <class Kernel>
  static void launch_check(Space& space, Kernel kernel) {
    auto& scratch = space.scratch();
    if (scratch.rows.empty()) return;
    const auto table = space.table(scratch.rows, 4, Kernel::chunk, scratch.gradients);
    if (kernel.of_gradients) {
      cuda::detail::update_gradients(space, *table, scratch.gradients, false);
    }
    kernel.table = cuda::detail::view_of<0>(*table);
    cuda::detail::launch(space, kernel, table->chunks,
                         "the launch that looks for NaN and infinity");
  }

  /// Waits for the first mark, and clears it.
  [[nodiscard]] static bool clear_mark(Space& space) {
    cuda::detail::await_report(space);  // of other methods: the report is to be used again
    cuda::detail::launch(space,
                         cuda::detail::ReportKernel{space.marks(), space.reported_on_device()}, 1,
                         "the launch that reports a check");
    space.synchronize();
    return space.reported()[0] == 0;
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
