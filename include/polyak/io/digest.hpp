// SPDX-License-Identifier: Apache-2.0
/// @file
/// XXH3-128 digests of a file's bytes, if xxHash is available. They detect damage, not tampering: a
/// deliberate change of a file can also change its digests.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include <polyak/core/switches.hpp>

#if POLYAK_HAS_XXHASH
struct XXH3_state_s;  // of <xxhash.h>
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

inline constexpr std::size_t digest_digits = 32;

#if POLYAK_HAS_XXHASH
inline constexpr bool has_digest = true;

/// Computes the digest of bytes that are appended in pieces.
class Digest {
 public:
  Digest();
  void add(std::span<const std::byte> bytes);
  /// Returns 32 hexadecimal digits, and starts again with no bytes.
  [[nodiscard]] std::string finish();

 private:
  struct Free {
    void operator()(::XXH3_state_s* state) const;
  };
  std::unique_ptr<::XXH3_state_s, Free> state_;
};
#else
inline constexpr bool has_digest = false;

class Digest {
 public:
  void add(std::span<const std::byte>) {}
  [[nodiscard]] std::string finish() { return std::string(digest_digits, '0'); }
};
#endif

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/digest.ipp>
#endif
