// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loops over lists on a device: one launch for all tensors that the same laws run on.
///
/// Scalars of a step travel as arguments of the launch. Tables of chunks and addresses are uploaded
/// once for a list; where only gradients moved, their addresses travel as arguments of a launch
/// too. So a step allocates nothing, copies nothing from the host and waits for nothing. Methods
/// are the host's own objects, with their clocks on the host and their slots on the device.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/walk.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/cuda/error.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/grid.hpp>

namespace polyak {
inline namespace v0 {
namespace cuda {
namespace detail {

// ---- launches ---------------------------------------------------------------------------------

#if defined(__CUDACC__)
template <class Kernel>
__global__ void __launch_bounds__(block_threads, 2)
    polyak_kernel(const __grid_constant__ Kernel kernel) {
  kernel(blockIdx.x, threadIdx.x, blockDim.x);
}
#endif

/// Calls `kernel(block, thread, threads)` for each thread of `blocks` blocks, after what the stream
/// has before it.
template <class Kernel>
void launch(DeviceSpace& space, const Kernel& kernel, std::size_t blocks, const char* what) {
  if (blocks == 0) return;
  const OnDevice here(space.device());
#if defined(__CUDACC__)
  static_assert(sizeof(Kernel) <= 4096, "polyak: a launch takes at most 4 KiB of arguments");
  polyak_kernel<<<static_cast<unsigned>(blocks), block_threads, 0, space.stream()>>>(kernel);
#else
  emulation::launch(space.stream(), kernel, blocks, block_threads);
#endif
  check(cudaGetLastError(), what);
  ++space.launches;
}

/// Writes words to the device as arguments of launches.
inline void write_words(DeviceSpace& space, void* to, const std::uint64_t* words,
                        std::size_t count) {
  for (std::size_t done = 0; done < count; done += WriteKernel::capacity) {
    WriteKernel kernel;
    kernel.to = static_cast<std::uint64_t*>(to) + done;
    kernel.count = std::min(WriteKernel::capacity, count - done);
    std::memcpy(kernel.words, words + done, kernel.count * 8);
    launch(space, kernel, 1, "the launch that writes addresses and scalars");
  }
}

template <std::size_t R>
[[nodiscard]] Table<R> view_of(const DeviceTable& table) {
  static_assert(sizeof(Row<R>) == 8 * (3 + (R == 0 ? 1 : R)) && sizeof(Chunk) == 16);
  return {reinterpret_cast<const Chunk*>(table.memory),
          reinterpret_cast<const Row<R>*>(table.memory + table.rows_at),
          reinterpret_cast<const void* const*>(table.memory + table.gradients_at)};
}

/// Makes the addresses of gradients on the device those given.
inline void update_gradients(DeviceSpace& space, DeviceTable& table,
                             const std::vector<std::uint64_t>& gradients, bool always) {
  if (!always && table.gradients == gradients) return;
  write_words(space, table.memory + table.gradients_at, gradients.data(), gradients.size());
  table.gradients = gradients;
}

// ---- a step in a captured graph ---------------------------------------------------------------

template <class Kernel>
inline constexpr char kernel_id = 0;

/// The passes of a captured step, and the place on the device where a replay finds their scalars.
struct Recording {
  struct Pass {
    const void* kernel;
    std::shared_ptr<DeviceTable> table;
    std::size_t at;  ///< of its runs, in bytes
    bool reads_gradient;
  };
  static constexpr std::size_t capacity = std::size_t{1} << 16;
  enum class Mode : std::uint8_t {
    plan,     ///< has the tables made
    record,   ///< puts the launches into the graph
    prepare,  ///< takes the scalars of the next replay
  };
  Mode mode = Mode::plan;
  bool differs = false;
  std::size_t next = 0;
  std::vector<Pass> passes;
  std::vector<std::shared_ptr<DeviceTable>> copies;  ///< tables of buffers
  std::vector<std::uint64_t> words;
  std::byte* block = nullptr;
};

/// What the calls of one thread are in the midst of. Null, and no marks, but within a call.
struct CallState {
  Recording* recording = nullptr;
  const unsigned* skip[2] = {nullptr, nullptr};
};
[[nodiscard]] inline CallState& call_state() {
  thread_local CallState state;
  return state;
}

/// Has the launches of a call do nothing where one of the marks is set.
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

template <class Kernel>
void run_pass(DeviceSpace& space, const std::shared_ptr<DeviceTable>& table, Kernel& kernel,
              const std::vector<std::uint64_t>& gradients, bool reads_gradient) {
  CallState& state = call_state();
  if (state.recording == nullptr) {
    if (reads_gradient) update_gradients(space, *table, gradients, false);
    kernel.skip[0] = state.skip[0];
    kernel.skip[1] = state.skip[1];
    kernel.written = nullptr;
    space.await_readers();
    launch(space, kernel, table->chunks, "the launch of a step");
    return;
  }
  Recording& recording = *state.recording;
  if (recording.mode == Recording::Mode::plan) return;
  constexpr std::size_t words = (sizeof kernel.runs + 7) / 8;
  if (recording.mode == Recording::Mode::prepare) {
    const std::size_t k = recording.next++;
    if (k >= recording.passes.size() || recording.passes[k].kernel != &kernel_id<Kernel> ||
        recording.passes[k].table != table) {
      recording.differs = true;
      return;
    }
    std::memcpy(recording.words.data() + recording.passes[k].at / 8, &kernel.runs,
                sizeof kernel.runs);
    return;
  }
  const std::size_t at = (recording.words.size() + 1) / 2 * 16;
  if (at + words * 8 > Recording::capacity) {
    polyak::detail::refuse_order("polyak: too many passes for one captured step");
  }
  recording.words.resize(at / 8 + words, 0);
  std::memcpy(recording.words.data() + at / 8, &kernel.runs, sizeof kernel.runs);
  recording.passes.push_back({&kernel_id<Kernel>, table, at, reads_gradient});
  if (reads_gradient) update_gradients(space, *table, gradients, true);
  kernel.skip[0] = kernel.skip[1] = nullptr;
  kernel.written = reinterpret_cast<decltype(kernel.written)>(recording.block + at);
  launch(space, kernel, table->chunks, "the launch of a captured step");
}

// ---- runs -------------------------------------------------------------------------------------

template <std::size_t I, class... Runs>
[[nodiscard]] auto chain_of(const std::tuple<Runs...>& runs) {
  if constexpr (I == sizeof...(Runs)) {
    return Chain<>{};
  } else {
    using R = std::tuple_element_t<I, std::tuple<Runs...>>;
    const R& run = std::get<I>(runs);
    const auto rest = chain_of<I + 1>(runs);
    return [&]<class... Rest>(const Chain<Rest...>& others) {
      Chain<R, Rest...> chain;
      std::memset(static_cast<void*>(&chain), 0, sizeof chain);  // padding too: it is compared
      chain.first.law = run.law;
      for (int k = 0; k < R::arrays; ++k) {
        chain.first.slots[k] = run.slots[static_cast<std::size_t>(k)];
      }
      chain.first.key = run.key;
      chain.rest = others;
      return chain;
    }(rest);
  }
}

/// A method that needs whole tensors says so: `static constexpr bool needs_whole_tensors = true`.
template <class M>
inline constexpr bool has_device_form = !requires {
  requires M::needs_whole_tensors;
};

// ---- clocks -----------------------------------------------------------------------------------

/// Keeps what a skipped step takes back: the scalars and counters of a method, not its slots.
struct ClockWriter {
  std::vector<std::byte>& out;
  template <class V>
  void option(std::string_view, const V&) {}
  template <class V>
  void scalar(std::string_view, V& value) {
    const auto* const first = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), first, first + sizeof value);
  }
  void counters(std::string_view, std::vector<std::int64_t>& values) {
    for (std::int64_t& value : values) scalar({}, value);
  }
  void buffers(const Layout&, std::byte*) {}
  template <class S>
  void slots(Slots<S>&) {}
};
/// Takes back what a step changed. What it did not change, a learning rate say, may have been set
/// since then, and stays.
struct ClockReader {
  const std::byte* before;
  const std::byte* after;
  template <class V>
  void option(std::string_view, const V&) {}
  template <class V>
  void scalar(std::string_view, V& value) {
    if (std::memcmp(before, after, sizeof value) != 0) std::memcpy(&value, before, sizeof value);
    before += sizeof value;
    after += sizeof value;
  }
  void counters(std::string_view, std::vector<std::int64_t>& values) {
    for (std::int64_t& value : values) scalar({}, value);
  }
  void buffers(const Layout&, std::byte*) {}
  template <class S>
  void slots(Slots<S>&) {}
};
template <class M>
void keep_clocks(M& method, std::vector<std::byte>& to) {
  to.clear();
  method.state(ClockWriter{to});
}
template <class M>
void restore_clocks(M& method, const std::vector<std::byte>& before,
                    const std::vector<std::byte>& after) {
  method.state(ClockReader{before.data(), after.data()});
}

/// Reads the marks of the newest step, once they are there.
inline void await_report(DeviceSpace& space) {
  const bool any = std::any_of(space.waiting.begin(), space.waiting.end(),
                               [](const Waiting& one) { return !one.resolved; });
  if (!any) return;
  space.report_event().wait();
  const volatile unsigned* const marks = space.reported();
  for (Waiting& one : space.waiting) {
    if (one.resolved) continue;
    one.resolved = true;
    for (std::size_t k = 0; k < DeviceSpace::mark_count; ++k) {
      one.skipped = one.skipped || (one.marks[k] && marks[k] != 0);
    }
  }
}

/// Takes back the step of a method if it was skipped. Returns whether it was.
template <class M>
bool settle_one(DeviceSpace& space, M& method) {
  bool skipped = false;
  const void* const block = method.slots().block().get();
  for (std::size_t k = 0; k < space.waiting.size();) {
    Waiting& one = space.waiting[k];
    if (one.address != block && !one.method.expired()) {
      ++k;
      continue;
    }
    if (one.address == block && !one.method.expired()) {
      await_report(space);
      if (one.skipped) {
        restore_clocks(method, one.before, one.after);
        if (one.counts) method.skip();
        skipped = true;
      }
    }
    std::swap(one, space.waiting.back());
    space.waiting.pop_back();
  }
  return skipped;
}

}  // namespace detail
}  // namespace cuda

namespace detail {

template <class T>
struct Walker<cuda::Device<T>> {
  using P = cuda::Device<T>;
  using Space = cuda::detail::DeviceSpace;

  /// Tensors by their numbers.
  struct Tensors {
    const std::uint32_t* numbers;
    std::size_t count;
    std::size_t first;
  };

  [[nodiscard]] static Space& space_of(const Parameters<P>& params) {
    return cuda::detail::space_of(*params.layout());
  }

  template <class E>
  static void check(const E&) {}

  template <class Taking, class Same, class Each>
  static void groups(const Parameters<P>& params, Taking taking_part, Same same_laws, Each pass) {
    auto& scratch = space_of(params).scratch();
    scratch.groups.assign(params.size(), 0);
    for (std::size_t first = 0; first < params.size(); ++first) {
      if (scratch.groups[first] != 0) continue;
      const auto taking = taking_part(first);
      if (std::find(taking.begin(), taking.end(), true) == taking.end()) continue;
      scratch.order.clear();
      for (std::size_t k = first; k < params.size(); ++k) {
        if (scratch.groups[k] == 0 && taking_part(k) == taking &&
            (k == first || same_laws(first, k))) {
          scratch.groups[k] = 1;
          scratch.order.push_back(static_cast<std::uint32_t>(k));
        }
      }
      pass(Tensors{scratch.order.data(), scratch.order.size(), first}, taking);
    }
  }

  template <class E, class... Runs>
  static void walk(E&, const Parameters<P>& params, const T* const* gradients,
                   const Tensors& tensors, const std::tuple<Runs...>& runs) {
    using Pass = cuda::detail::Pass<T, Runs...>;
    using Kernel = cuda::detail::PassKernel<T, Runs...>;
    Space& space = space_of(params);
    auto& scratch = space.scratch();
    scratch.rows.clear();
    scratch.gradients.clear();
    for (std::size_t i = 0; i < tensors.count; ++i) {
      const std::size_t k = tensors.numbers[i];
      const TensorMemory& memory = ParameterAccess<P>::memory(params)[k];
      if (memory.size == 0) continue;
      scratch.rows.push_back(reinterpret_cast<std::uintptr_t>(memory.data));
      scratch.rows.push_back(memory.size);
      scratch.rows.push_back(k);
      std::apply(
          [&](const auto&... run) {
            (scratch.rows.push_back(run.offsets == nullptr ? 0 : run.offsets[k]), ...);
          },
          runs);
      if constexpr (Pass::reads_gradient) {
        scratch.gradients.push_back(reinterpret_cast<std::uintptr_t>(gradients[k]));
      }
    }
    if (scratch.rows.empty()) return;
    const auto table =
        space.table(scratch.rows, 3 + sizeof...(Runs), Pass::chunk, scratch.gradients);
    Kernel kernel;
    kernel.table = cuda::detail::view_of<sizeof...(Runs)>(*table);
    kernel.runs = cuda::detail::chain_of<0>(runs);
    cuda::detail::run_pass(space, table, kernel, scratch.gradients, Pass::reads_gradient);
  }

  /// One run over one tensor, or over every tensor that its slots keep.
  template <class R>
  static void one(const Parameters<P>& params, std::size_t tensor, const R& run) {
    const auto number = static_cast<std::uint32_t>(tensor);
    auto& state = cuda::detail::call_state();
    using Mode = cuda::detail::Recording::Mode;
    if (state.recording != nullptr && state.recording->mode == Mode::plan) return;
    if (state.recording != nullptr && state.recording->mode == Mode::record) {
      refuse_order(
          "polyak: a captured step in which the training of a tensor begins; make one ordinary "
          "step "
          "before capturing");
    }
    auto* const recording = std::exchange(state.recording, nullptr);
    walk(serial, params, nullptr, {&number, 1, tensor}, std::tuple(run));
    state.recording = recording;
  }
  template <class R>
  static void kept(const Parameters<P>& params, const R& run) {
    std::vector<std::uint32_t> numbers;
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (run.offsets[k] != Slots<typename R::State>::absent) {
        numbers.push_back(static_cast<std::uint32_t>(k));
      }
    }
    walk(serial, params, nullptr, {numbers.data(), numbers.size(), 0}, std::tuple(run));
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

  static void check_weights(const Parameters<P>& params, unsigned* mark) {
    launch_check(params, nullptr, mark,
                 [&](std::size_t k) { return params[k].info().role == Role::average; });
  }
  static void check_gradients(const Parameters<P>& params, const T* const* gradients,
                              unsigned* mark) {
    launch_check(params, gradients, mark, [&](std::size_t k) { return gradients[k] != nullptr; });
  }
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params) {
    Space& space = space_of(params);
    check_weights(params, space.marks());
    return clear_mark(space);
  }
  [[nodiscard]] static bool gradients_finite(const Parameters<P>& params,
                                             const T* const* gradients) {
    Space& space = space_of(params);
    check_gradients(params, gradients, space.marks());
    return clear_mark(space);
  }

  // ---- step() and update()

  /// As Call, where a policy other than `error` is looked at by the device alone.
  template <class... M>
  class DeviceCall : public Call<const Serial, P, M...> {
    using Base = Call<const Serial, P, M...>;
    using typename Base::Chosen;
    static constexpr std::size_t count = sizeof...(M);

   public:
    using Base::Base;

    bool run() {
      Space& space = space_of(this->params_);
      const auto has = [&](Nonfinite policy) {
        return this->any([&](auto, const auto& m) { return m.nonfinite() == policy; });
      };
      const bool skips = has(Nonfinite::skip_step), throws = has(Nonfinite::error);
      if ((skips || throws) && space.capturing()) {
        refuse_order(
            "polyak: a captured step of methods whose nonfinite is not Nonfinite::propagate");
      }
      this->each([&](auto, auto& m) { cuda::detail::settle_one(space, m); });
      if (throws) return Base::run();
      if (!skips) {
        advance_all();
        return true;
      }
      run_marked(space);
      return true;
    }

    void advance_all() {
      Chosen all{};
      all.fill(true);
      this->advance(all);
    }

   private:
    /// The device skips what the marks say; the host learns of it before its next step.
    void run_marked(Space& space) {
      cuda::detail::await_report(space);  // of other methods: the report is to be used again
      unsigned* const marks = space.marks();
      const bool gradients = this->any([](auto, const auto& m) {
        return Base::is_trainer(m) && m.nonfinite() == Nonfinite::skip_step;
      });
      Chosen now{}, waiting{}, checked{};
      this->each([&](auto i, auto& m) {
        (Base::waits(i, m) ? waiting : now)[i] = true;
        checked[i] = !Base::is_trainer(m) && m.nonfinite() == Nonfinite::skip_step;
      });
      this->each([&](auto i, auto& m) {
        if (!gradients && !checked[i]) return;
        cuda::detail::Waiting one;
        one.method = m.slots().block();
        one.address = m.slots().block().get();
        cuda::detail::keep_clocks(m, one.before);
        one.marks[0] = gradients;
        one.marks[1] = checked[i] && now[i];
        one.marks[2] = waiting[i];
        one.counts = m.nonfinite() == Nonfinite::skip_step;
        space.waiting.push_back(std::move(one));
      });
      const auto guarded = [&](const Chosen& chosen, const unsigned* mark) {
        const cuda::detail::Skip skip(gradients ? marks : nullptr, mark);
        this->advance(chosen);
      };
      if (gradients) check_gradients(this->params_, this->gradients_, marks);
      // Consecutive methods that are checked alike: averages see what those before them wrote.
      for (std::size_t first = 0; first < count;) {
        Chosen some{};
        std::size_t last = first;
        while (last < count && checked[last] == checked[first]) {
          some[last] = now[last];
          ++last;
        }
        first = last;
        if (std::find(some.begin(), some.end(), true) == some.end()) continue;
        const bool check = checked[last - 1];
        if (check) check_weights(this->params_, marks + 1);
        guarded(some, check ? marks + 1 : nullptr);
      }
      if (std::find(waiting.begin(), waiting.end(), true) != waiting.end()) {
        check_weights(this->params_, marks + 2);
        guarded(waiting, marks + 2);
      }
      this->each([&](auto, auto& m) {
        for (cuda::detail::Waiting& one : space.waiting) {
          if (one.address == m.slots().block().get()) cuda::detail::keep_clocks(m, one.after);
        }
      });
      cuda::detail::launch(space, cuda::detail::ReportKernel{marks, space.reported_on_device()}, 1,
                           "the launch that reports a step");
      space.report_event().record(space.stream());
    }
  };

  template <class E, class... M>
  static bool call(E& executor, const Parameters<P>& params, const T* const* gradients,
                   M&... methods) {
    static_assert((cuda::detail::has_device_form<M> && ...),
                  "polyak: a method that needs whole tensors (row statistics, norms, matrix "
                  "functions) has no form for a device yet; keep its parameters on the host");
    if constexpr (!std::is_same_v<std::remove_const_t<E>, Serial>) {
      if (executor.space().get() != params.layout()->space.get()) {
        refuse_value("polyak: the parameters and the executor are of different memory");
      }
    }
    return DeviceCall<M...>(serial, params, gradients, methods...).run();
  }

 private:
  template <class Which>
  static void launch_check(const Parameters<P>& params, const T* const* gradients, unsigned* mark,
                           Which which) {
    Space& space = space_of(params);
    auto& scratch = space.scratch();
    scratch.rows.clear();
    scratch.gradients.clear();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (params[k].size() == 0 || !which(k)) continue;
      scratch.rows.push_back(reinterpret_cast<std::uintptr_t>(params[k].raw()));
      scratch.rows.push_back(params[k].size());
      scratch.rows.push_back(k);
      scratch.rows.push_back(0);
      if (gradients != nullptr) {
        scratch.gradients.push_back(reinterpret_cast<std::uintptr_t>(gradients[k]));
      }
    }
    if (scratch.rows.empty()) return;
    using Kernel = cuda::detail::FiniteKernel<T>;
    // Rows of gradients and of weights are of different tables: one has addresses, the other none.
    if (gradients == nullptr) scratch.rows.insert(scratch.rows.end(), {0, 0, 0, 0});
    const auto table = space.table(scratch.rows, 4, Kernel::chunk, scratch.gradients);
    if (gradients != nullptr) {
      cuda::detail::update_gradients(space, *table, scratch.gradients, false);
    }
    cuda::detail::launch(space,
                         Kernel{cuda::detail::view_of<0>(*table), gradients != nullptr, mark},
                         table->chunks, "the launch that looks for NaN and infinity");
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

namespace cuda {

/// Waits until the device has said whether the newest steps of these methods were skipped, and
/// takes back the clocks of those that were. step() and update() do so for their methods; before
/// reading count() or skipped(), or saving, of methods with Nonfinite::skip_step, call it yourself.
/// Returns whether a step was skipped.
template <class... M>
bool settle(const Executor& executor, M&... methods) {
  bool skipped = false;
  ((skipped = detail::settle_one(*executor.space(), methods) || skipped), ...);
  return skipped;
}

/// One step() of fixed parameters, gradients and methods, for a CUDA graph that is replayed.
///
///   CapturedStep step(executor, params, gradients, optimizer, ema);   // after the first steps
///   ... cudaStreamBeginCapture; forward and backward; step.record(); cudaStreamEndCapture ...
///   for (;;) { step.prepare(); cudaGraphLaunch(graph, stream); }
///
/// A replay cannot bring arguments of its own, so it reads this step's scalars from the device,
/// where prepare() has put them, by a launch in the stream before it: no copy from the host, and no
/// wait. Everything refers to the objects given, which must stay where they are. A captured step
/// has the passes that its recording had: where an average rests, copies or switches in some steps
/// only, prepare() throws std::logic_error in the others, with nothing changed: call step() instead
/// of the replay, or capture again. Make it when the averages have begun, for it uploads the tables
/// of the step that would be next. Nonfinite::propagate only. (CUDA captures no default stream:
/// give the executor one of its own.)
template <class T, class... M>
class CapturedStep {
  using P = Device<T>;

 public:
  CapturedStep(const Executor& executor, const Parameters<T>& params, const Gradients<T>& gradients,
               M&... methods)
      : executor_(executor), params_(params), gradients_(gradients), methods_(methods...) {
    polyak::detail::require_same(gradients.layout(), params.layout(),
                                 "the gradients' parameters and the parameters");
    (polyak::detail::check_method(methods, params), ...);
    polyak::detail::check_distinct(methods...);
    require(((methods.nonfinite() == Nonfinite::propagate) && ...),
            "CapturedStep: nonfinite of all methods must be", std::string_view("propagate"));
    block_ = std::make_unique<polyak::detail::Block>(detail::Recording::capacity,
                                                     params.layout()->space);
    recording_.block = block_->data();
    try_out(detail::Recording::Mode::plan);
  }
  CapturedStep(const CapturedStep&) = delete;
  CapturedStep& operator=(const CapturedStep&) = delete;

  /// Puts the launches of a step into the stream, which is captured. No clock advances. Throws
  /// std::logic_error where it cannot, with the clocks as they were.
  void record() {
    recording_.passes.clear();
    recording_.copies.clear();
    recording_.words.clear();
    try_out(detail::Recording::Mode::record);
  }

  /// Counts a step, and puts its scalars where the next replay reads them.
  void prepare() {
    if (recording_.passes.empty()) {
      polyak::detail::refuse_order("polyak: prepare() of a captured step that was not recorded");
    }
    recording_.mode = detail::Recording::Mode::prepare;
    recording_.differs = false;
    recording_.next = 0;
    const auto clocks = kept();
    advance();
    if (recording_.differs || recording_.next != recording_.passes.size()) {
      restore(clocks);
      polyak::detail::refuse_order(
          "polyak: this step has other passes than the captured one (an average that rests, copies "
          "or switches); call step() instead of the replay, or capture again");
    }
    executor_.space()->await_readers();
    for (const auto& pass : recording_.passes) {
      if (pass.reads_gradient) pass.table->gradients.clear();  // the replay writes its own
    }
    detail::write_words(*executor_.space(), recording_.block, recording_.words.data(),
                        recording_.words.size());
  }

 private:
  using Call = typename polyak::detail::Walker<P>::template DeviceCall<M...>;

  /// The next step without its effects on the clocks.
  void try_out(detail::Recording::Mode mode) {
    recording_.mode = mode;
    const auto clocks = kept();
    try {
      advance();
    } catch (...) {
      restore(clocks);
      throw;
    }
    restore(clocks);
  }

  void advance() {
    detail::call_state().recording = &recording_;
    const Restore end;
    std::apply(
        [&](M&... methods) { Call(serial, params_, gradients_.data(), methods...).advance_all(); },
        methods_);
  }
  struct Restore {
    ~Restore() { detail::call_state().recording = nullptr; }
  };

  [[nodiscard]] std::vector<std::vector<std::byte>> kept() {
    std::vector<std::vector<std::byte>> all(sizeof...(M));
    std::size_t k = 0;
    std::apply([&](M&... methods) { (detail::keep_clocks(methods, all[k++]), ...); }, methods_);
    return all;
  }
  void restore(const std::vector<std::vector<std::byte>>& before) {
    const auto after = kept();
    std::size_t k = 0;
    std::apply(
        [&](M&... methods) { ((detail::restore_clocks(methods, before[k], after[k]), ++k), ...); },
        methods_);
  }

  Executor executor_;
  Parameters<T> params_;
  Gradients<T> gradients_;
  std::tuple<M&...> methods_;
  detail::Recording recording_;
  std::unique_ptr<polyak::detail::Block> block_;
};
template <class T, class... M>
CapturedStep(const Executor&, const polyak::Parameters<Device<T>>&,
             const polyak::Gradients<Device<T>>&, M&...) -> CapturedStep<T, M...>;

}  // namespace cuda
}  // namespace v0
}  // namespace polyak
