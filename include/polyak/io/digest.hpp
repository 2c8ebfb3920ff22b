// SPDX-License-Identifier: Apache-2.0
/// @file
/// XXH3-128 digests of a file's bytes, where xxHash is there. They detect damage, not tampering:
/// whoever changes a file on purpose can change them too.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#if POLYAK_HAS_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>  // the same functions, for the processor at hand
#elif POLYAK_HAS_XXHASH
#include <xxhash.h>
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
  Digest() : state_(::XXH3_createState()) { ::XXH3_128bits_reset(state_.get()); }
  void add(std::span<const std::byte> bytes) {
    if (!bytes.empty()) ::XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
  }
  /// 32 hexadecimal digits, and ready for other bytes.
  [[nodiscard]] std::string finish() {
    ::XXH128_canonical_t canonical;
    ::XXH128_canonicalFromHash(&canonical, ::XXH3_128bits_digest(state_.get()));
    ::XXH3_128bits_reset(state_.get());
    std::string digits;
    for (const unsigned char byte : canonical.digest) {
      digits += "0123456789abcdef"[byte >> 4];
      digits += "0123456789abcdef"[byte & 15];
    }
    return digits;
  }

 private:
  struct Free {
    void operator()(::XXH3_state_t* state) const { ::XXH3_freeState(state); }
  };
  std::unique_ptr<::XXH3_state_t, Free> state_;
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
