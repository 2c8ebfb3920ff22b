// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which parts of a state file are loaded, and where in the file the tensors and methods of a
/// program are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/io/state_record.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Parts of a saved run, combined by `|`.
enum class Parts : std::uint8_t {
  weights = 1,  ///< weights and buffers of the model
  optimizers = 2,
  averages = 4,
  all = 7,
};
[[nodiscard]] constexpr Parts operator|(Parts a, Parts b) {
  return static_cast<Parts>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}

namespace detail {

[[nodiscard]] constexpr bool includes(Parts all, Parts one) {
  return (static_cast<unsigned>(all) & static_cast<unsigned>(one)) != 0;
}
/// The part that a method is.
[[nodiscard]] constexpr Parts part_of(bool trains) {
  return trains ? Parts::optimizers : Parts::averages;
}

/// What is loaded from a file.
struct Wanted {
  Parts parts = Parts::all;
  Selection tensors = {};

  [[nodiscard]] bool everything() const { return parts == Parts::all && tensors.is_everything(); }
};

/// The places of a program's lists, tensors and methods in a file, and the differences.
struct StateMatch {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct List {
    std::size_t place = none;  ///< among the lists of the file
    std::vector<bool> wanted;  ///< of each tensor here
    /// Of each tensor here: its places in the list of the file, first the one with its own name. A
    /// tensor with aliases may have several.
    std::vector<std::vector<std::size_t>> tensors;
    /// Of each tensor of the file: the first tensor here whose first place it is, or none.
    std::vector<std::size_t> first_of;
    /// Of each tensor of the file: whether it is another place of a tensor here.
    std::vector<bool> tied_copy;
  };
  std::vector<List> lists;
  std::vector<std::size_t> methods;  ///< of each method here; none for one that is not loaded

  std::vector<std::string> options;  ///< differences that may be overridden, as lines
  std::vector<std::string> others;   ///< all other differences
  /// Names of the options of each method here that differ.
  std::vector<std::vector<std::string>> differing;
};

/// The aliases of each tensor of a list, by its place.
POLYAK_ON_USE [[nodiscard]] std::vector<std::vector<std::string_view>> aliases_of(
    const Layout& layout);

struct FiledRecord;

/// Finds the lists and methods of a program in the record of a file, and compares them. If
/// everything is wanted, both must have the same lists and methods in the same order. Otherwise the
/// wanted tensors are found by their names, and each wanted method by its type: the first one with
/// the same options, or else the first.
POLYAK_ON_USE [[nodiscard]] StateMatch match(const FiledRecord& file, const StateRecord& run,
                                             const Wanted& wanted);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/state_match.ipp>
#endif
