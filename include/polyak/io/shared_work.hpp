// SPDX-License-Identifier: Apache-2.0
/// @file
/// Work on files that a few threads share: copying from the system's cache and digesting take one
/// processor longer than the memory needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include <polyak/core/compiled.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Calls work(k) once for each k < count and returns when all have ended. Work on many bytes is
/// shared by up to four threads, as the machine has processors; they take k in rising order. After
/// a call that throws, no further ones begin, and the exception of the smallest k is thrown: which
/// one does not depend on the number of threads.
POLYAK_ON_USE void share_work(std::size_t count, std::uint64_t bytes,
                              const std::function<void(std::size_t)>& work);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/shared_work.ipp>
#endif
