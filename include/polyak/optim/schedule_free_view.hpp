// SPDX-License-Identifier: Apache-2.0
/// @file
/// The average x of a Schedule-Free optimizer, read without a copy: the model holds y and the
/// optimizer z, and each element of x is computed when it is read.
///
///   x = y + (1 - 1/beta)(z - y)
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// x = y + (1 - 1/beta)(z - y), read from the slot "z".
template <class T>
struct ScheduleFreeReadLaw {
  static constexpr LawSlots slots = LawSlots::reading("z");
  T extrapolation;  ///< 1 - 1/beta
  template <class V>
  POLYAK_LAW void operator()(V& y, const V& z) const {
    y = interpolate(y, z, extrapolation);
  }
};

template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
class ScheduleFree;

/// The elements of x of one tensor, each computed when it is read.
template <ParameterScalar P, ComputeScalar S>
class ScheduleFreeTensor {
 public:
  using Element = element_t<P>;
  using Carrier = detail::carrier_t<P>;
  ScheduleFreeTensor(const Element* y, std::span<const S> z, std::size_t size,
                     ScheduleFreeReadLaw<S> law, MemorySpace* space,
                     const detail::WeightKey<Element>& kept)
      : y_(y), z_(z), size_(size), law_(law), space_(space), kept_(kept) {}
  [[nodiscard]] std::size_t size() const { return size_; }
  /// On a device, reading an element copies it to the host: use it for inspection, not in loops.
  [[nodiscard]] Element operator()(std::size_t k) const {
    if constexpr (detail::on_device<P>) {
      Element value{};
      space_->read(&value, y_ + k, sizeof value);
      if (z_.empty()) return value;
      S z;
      space_->read(&z, z_.data() + k, sizeof z);
      std::byte rest[sizeof value] = {};
      if (kept_.rests != nullptr) space_->read(rest, rest_of(k), sizeof value);
      detail::Number<S> y(detail::read_weight<S>(kept_, static_cast<Carrier>(value), rest));
      law_(y, detail::Number<S>(z));
      return static_cast<Element>(y.value);
    } else {
      return on_host(k);
    }
  }
  [[nodiscard]] Element operator[](std::size_t k) const { return (*this)(k); }

 private:
  [[nodiscard]] Element on_host(std::size_t k) const {
    Element value = y_[k];
    if (z_.empty()) return value;
    S z[detail::slot_granule] = {z_[k]};
    const detail::TensorMemory memory{&value, 1};
    const std::size_t start = 0;
    if constexpr (detail::keeps_digits<P, S>) {
      if (kept_.rests != nullptr) {
        alignas(detail::cache_line) std::byte rests[detail::slot_granule * sizeof value] = {};
        std::memcpy(rests, rest_of(k), sizeof value);
        detail::WeightKey<Element> key = kept_;
        key.rests = rests;
        const detail::BoundLaw<ScheduleFreeReadLaw<S>, S, detail::Keeping<Element>::template Slots>
            bound{.law = law_, .slots = {z}, .offsets = &start, .key = key};
        detail::Sweep<P>::one(&memory, 0, bound);
        return value;
      }
    }
    const detail::BoundLaw<ScheduleFreeReadLaw<S>, S> bound{
        .law = law_, .slots = {z}, .offsets = &start};
    detail::Sweep<P>::one(&memory, 0, bound);
    return value;
  }
  /// Where the rest of y's element k is.
  [[nodiscard]] const std::byte* rest_of(std::size_t k) const {
    return kept_.rests + k * sizeof(Element);
  }

  const Element* y_;
  std::span<const S> z_;  // empty if x = y: no gradient yet, or a buffer
  std::size_t size_;
  ScheduleFreeReadLaw<S> law_;
  MemorySpace* space_;
  detail::WeightKey<Element> kept_;  // how y is kept; `rests` are the tensor's
};

/// Read-only view of x. Lives as long as the optimizer and the parameters do not move.
template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
class ScheduleFreeView {
 public:
  ScheduleFreeView(const ScheduleFree<Derived, Rule, P, S>& method, const Parameters<P>& params)
      : method_(&method), params_(params) {}
  [[nodiscard]] std::size_t size() const { return params_.size(); }
  [[nodiscard]] ScheduleFreeTensor<P, S> operator[](std::size_t index) const {
    return {params_[index].data(), method_->z_of(index),          params_[index].size(),
            method_->read_law(),   params_.layout()->space.get(), method_->kept_of(index)};
  }
  [[nodiscard]] ScheduleFreeTensor<P, S> operator[](std::string_view name) const {
    return (*this)[params_.layout()->find(params_.at(name).name())];
  }

 private:
  const ScheduleFree<Derived, Rule, P, S>* method_;
  Parameters<P> params_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
