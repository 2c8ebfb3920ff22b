// SPDX-License-Identifier: Apache-2.0
/// @file
/// XXH3-128 digests of a file's bytes, where xxHash is there. They detect damage, not tampering:
/// whoever changes a file on purpose can change them too.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#if POLYAK_HAS_XXHASH
struct XXH3_state_s;  // of <xxhash.h>
#endif

namespace polyak {
inline namespace v0 {
namespace detail {

inline constexpr std::size_t digest_digits = 32;

#if POLYAK_HAS_XXHASH
inline constexpr bool has_digest = true;

/// The digest of bytes that come in pieces.
class Digest {
 public:
  Digest();
  void add(std::span<const std::byte> bytes);
  /// 32 hexadecimal digits, and ready for other bytes.
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
}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/digest.ipp>
#endif
