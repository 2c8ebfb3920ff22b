// SPDX-License-Identifier: Apache-2.0
#include "corpus.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace char_lm {

Corpus::Corpus(std::string name_of_text, std::string_view text, int context)
    : name(std::move(name_of_text)) {
  if (text.empty()) throw std::runtime_error(name + " is empty");

  std::array<bool, 256> seen{};
  for (const char byte : text) seen[static_cast<std::uint8_t>(byte)] = true;
  std::array<std::uint8_t, 256> number{};
  for (std::size_t byte = 0; byte < seen.size(); ++byte) {
    if (seen[byte]) number[byte] = static_cast<std::uint8_t>(vocabulary++);
  }

  std::vector<std::uint8_t> numbers(text.size());
  std::transform(text.begin(), text.end(), numbers.begin(),
                 [&](char byte) { return number[static_cast<std::uint8_t>(byte)]; });
  const auto split = numbers.begin() + static_cast<std::ptrdiff_t>(text.size() / 10 * 9);
  train.assign(numbers.begin(), split);
  validation.assign(split, numbers.end());
  if (count_windows(train, context) < 1 || count_windows(validation, context) < 1) {
    throw std::runtime_error(name + " is too short: " + std::to_string(text.size()) +
                             " bytes, the last tenth of which must hold more than the context of " +
                             std::to_string(context));
  }
}

std::string read_text(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file || text.bad() || errno != 0) {  // a folder opens, but does not read
    throw std::runtime_error("cannot read " + path + ": " + std::strerror(errno));
  }
  return std::move(text).str();
}

void set_window(std::span<const std::uint8_t> text, std::int64_t position, Batch& batch,
                Eigen::Index column) {
  const auto window = text.subspan(static_cast<std::size_t>(position));
  const Eigen::Index length = batch.context.rows();
  std::copy_n(window.begin(), length, batch.context.col(column).begin());
  batch.target[static_cast<std::size_t>(column)] = window[static_cast<std::size_t>(length)];
}

}  // namespace char_lm
