// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/digest.hpp.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#if POLYAK_HAS_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>  // the same functions, for the instruction set of the processor
#elif POLYAK_HAS_XXHASH
#include <xxhash.h>
#endif

#include <polyak/core/compiled.hpp>
#include <polyak/io/digest.hpp>

#if POLYAK_HAS_XXHASH
namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE Digest::Digest() : state_(::XXH3_createState()) {
  ::XXH3_128bits_reset(state_.get());
}

POLYAK_DEFINE void Digest::add(std::span<const std::byte> bytes) {
  if (!bytes.empty()) ::XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

POLYAK_DEFINE std::string Digest::finish() {
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

POLYAK_DEFINE void Digest::Free::operator()(::XXH3_state_s* state) const {
  ::XXH3_freeState(state);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
#endif
