// SPDX-License-Identifier: Apache-2.0
/// @file
/// AverageRecord: the part of an average that does not depend on its type: names, policies, counts,
/// and the newest values of the buffers (Role::copy).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/average/engine/accumulation.hpp>
#include <polyak/average/engine/swap.hpp>
#include <polyak/core/bound_law.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/block.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/list_change.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

class AverageRecord {
 public:
  /// The record of the averages named `all`, whose weights have one type. Throws
  /// std::invalid_argument as validate(how, ...) does and for an empty selection, std::logic_error
  /// while something is swapped in.
  POLYAK_ON_USE AverageRecord(std::string_view method, const ParameterList& params, DType weights,
                              DType average, Nonfinite policy, const Accumulation& how,
                              double least_gain, const std::vector<std::string>& all);
  AverageRecord(const AverageRecord& other);
  AverageRecord(AverageRecord&&) noexcept;
  AverageRecord& operator=(const AverageRecord& other);
  AverageRecord& operator=(AverageRecord&&) noexcept;
  ~AverageRecord();

  /// The tensors that are averaged.
  [[nodiscard]] const std::vector<bool>& averaged() const { return averaged_; }
  /// The slots of the averages in their own type; none if they are stored in double.
  POLYAK_ON_USE [[nodiscard]] std::vector<SlotSpec> slots() const;
  /// The slots in double.
  [[nodiscard]] std::vector<SlotSpec> wide_slots() const { return specs_of(names); }
  /// Number of slots of each average.
  [[nodiscard]] std::size_t arrays() const {
    return accumulation.accumulate == Accumulate::kahan ? 2 : 1;
  }

  /// The copies that update the buffers here to their newest values. Valid until the next call.
  POLYAK_ON_USE [[nodiscard]] const std::vector<CopyPiece>& copies_of(const ParameterList& params);
  /// Writes the buffers into a target.
  POLYAK_ON_USE void write_buffers(const ParameterList& target) const;
  /// The memory that a guard exchanges or saves: the averaged tensors, with the memory of their
  /// average unless it is `wide`, and the buffers.
  POLYAK_ON_USE [[nodiscard]] std::vector<SwapGuard::Piece> pieces(const ParameterList& params,
                                                                   const SlotMemory& slots,
                                                                   std::size_t which,
                                                                   bool wide) const;
  /// Copies the buffers of `before`, the record of the previous list `then`.
  POLYAK_ON_USE void carry_buffers(const ListChange& change, const AverageRecord& before,
                                   const Layout& then) const;

  /// Lists the options of the memory, and the selection tensor by tensor.
  POLYAK_ON_USE void list_options(const Layout& layout, OptionVisitor& visit) const;

  std::string_view owner;  ///< the method's name
  std::vector<std::string> names;
  Nonfinite nonfinite;
  Accumulation accumulation;
  std::int64_t calls = 0;
  std::int64_t skipped = 0;
  std::shared_ptr<Block> buffers;

 private:
  std::vector<bool> averaged_;
  std::vector<CopyPiece> copies_;  // a member, so that a call does not allocate
};

/// Refuses an update for any step but the next one.
POLYAK_ON_USE void require_next_call(std::int64_t step, std::int64_t calls);
/// The first refuses the use of a method while its average is swapped in, the second a target that
/// holds an average.
POLYAK_ON_USE void require_home(const SlotMemory& slots);
POLYAK_ON_USE void require_target(const ParameterList& target, const SlotMemory& slots);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/average_record.ipp>
#endif
