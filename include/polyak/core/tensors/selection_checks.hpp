// SPDX-License-Identifier: Apache-2.0
/// @file
/// Refuses selections that select nothing, or a tensor that another selection also selects.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/selection.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Index of the first tensor in both sets; bits.size() if there is none.
POLYAK_ON_USE [[nodiscard]] std::size_t first_common(const std::vector<bool>& a,
                                                     const std::vector<bool>& b);

/// Names for a message, at most eight of them.
POLYAK_ON_USE [[nodiscard]] POLYAK_COLD std::string some_names(const Layout& layout);

[[noreturn]] void refuse_empty_selection(const Selection& selection, const Layout& layout,
                                         std::string_view owner);

/// Refuses a set without any tensor. `bits` is the selection, restricted to the tensors that
/// `owner` can have; messages use the name `owner`, such as "AdamW". Throws std::invalid_argument
/// that lists the tensors to select from.
POLYAK_ON_USE void require_some(const std::vector<bool>& bits, const Selection& selection,
                                const Layout& layout, std::string_view owner);

/// Refuses two sets with a common tensor. Throws std::invalid_argument that names the first common
/// tensor and both owners.
POLYAK_ON_USE void require_disjoint(const std::vector<bool>& a, const std::vector<bool>& b,
                                    const Layout& layout, std::string_view owner_of_a,
                                    std::string_view owner_of_b);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/selection_checks.ipp>
#endif
