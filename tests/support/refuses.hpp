// SPDX-License-Identifier: Apache-2.0
/// @file
/// Refusals by their key words.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "refusal.hpp"

/// Whether the call throws std::invalid_argument with each of the words in its message.
template <class Call>
[[nodiscard]] bool refuses(Call call, const std::vector<std::string>& words) {
  const std::string message = refusal<std::invalid_argument>(call);
  for (const std::string& word : words) {
    if (message.find(word) == std::string::npos) {
      UNSCOPED_INFO("\"" << message << "\" lacks \"" << word << "\"");
      return false;
    }
  }
  return !message.empty();
}
