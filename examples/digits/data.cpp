// SPDX-License-Identifier: Apache-2.0
#include "data.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string_view>

namespace digits {
namespace {

constexpr int highest_count = 16, side = 8;

/// Ten digits, six rows each.
constexpr std::array<std::array<std::string_view, 6>, class_count> glyphs{{
    {"...##...", "..#..#..", "..#..#..", "..#..#..", "..#..#..", "...##..."},
    {"....#...", "...##...", "....#...", "....#...", "....#...", "...###.."},
    {"...##...", "..#..#..", ".....#..", "....#...", "...#....", "..####.."},
    {"..###...", ".....#..", "...##...", ".....#..", ".....#..", "..###..."},
    {"..#.....", "..#.#...", "..#.#...", "..####..", "....#...", "....#..."},
    {"..####..", "..#.....", "..###...", ".....#..", ".....#..", "..###..."},
    {"...##...", "..#.....", "..###...", "..#..#..", "..#..#..", "...##..."},
    {"..####..", ".....#..", "....#...", "....#...", "...#....", "...#...."},
    {"...##...", "..#..#..", "...##...", "..#..#..", "..#..#..", "...##..."},
    {"...##...", "..#..#..", "..#..#..", "...###..", ".....#..", "...##..."},
}};

/// 1 where the digit is drawn, in the middle of 8x8 pixels and 0 around it.
double ink(std::size_t label, int row, int column) {
  if (row < 1 || row > 6 || column < 0 || column >= side) return 0;
  return glyphs[label][static_cast<std::size_t>(row - 1)][static_cast<std::size_t>(column)] == '#';
}

/// Between the pixels, linear.
double ink_at(std::size_t label, double row, double column) {
  const double top = std::floor(row), left = std::floor(column), down = row - top,
               right = column - left;
  const int i = static_cast<int>(top), j = static_cast<int>(left);
  return (1 - down) * ((1 - right) * ink(label, i, j) + right * ink(label, i, j + 1)) +
         down * ((1 - right) * ink(label, i + 1, j) + right * ink(label, i + 1, j + 1));
}

/// The first characters of a field, fit for a message of one line.
std::string quoted(std::string_view field) {
  std::string text(field.substr(0, 20));
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return '"' + text + (field.size() > 20 ? "...\"" : "\"");
}

/// The fields of a line, as many as it has.
std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> fields;
  for (std::size_t comma = 0; comma != std::string_view::npos;) {
    comma = line.find(',');
    fields.push_back(line.substr(0, comma));
    if (comma != std::string_view::npos) line.remove_prefix(comma + 1);
  }
  return fields;
}

/// A whole number in 0..highest; throws std::runtime_error that begins with `what`.
int whole_number(std::string_view field, int highest, const std::string& what) {
  int value = -1;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || end != field.data() + field.size() || value < 0 || value > highest) {
    throw std::runtime_error(what + " must be a whole number in 0.." + std::to_string(highest) +
                             "; it is " + quoted(field));
  }
  return value;
}

}  // namespace

Digits read_digits(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  Digits digits;
  std::vector<float> pixels;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) line.pop_back();
    const std::string where = path + ":" + std::to_string(digits.labels.size() + 1) + ": ";
    const auto fields = split(line);
    if (fields.size() != pixel_count + 1) {
      throw std::runtime_error(where + "there must be 64 counts and a label with commas between " +
                               "them, 65 numbers; there are " +
                               std::to_string(line.empty() ? 0 : fields.size()));
    }
    for (std::size_t k = 0; k < pixel_count; ++k) {
      const int count =
          whole_number(fields[k], highest_count, where + "count " + std::to_string(k + 1));
      pixels.push_back(static_cast<float>(count) / highest_count);
    }
    digits.labels.push_back(whole_number(fields.back(), class_count - 1, where + "the label"));
  }
  if (file.bad() || !file.eof()) {  // a folder opens, but does not read
    throw std::runtime_error("cannot read " + path + ": " + std::strerror(errno));
  }
  if (digits.labels.empty()) {
    throw std::runtime_error(path + ": there must be at least one line; the file is empty");
  }
  digits.pixels = Eigen::Map<const Eigen::MatrixXf>(
      pixels.data(), pixel_count, static_cast<Eigen::Index>(digits.labels.size()));
  return digits;
}

Digits synthetic_digits(Eigen::Index count, std::uint64_t seed) {
  Random random(seed);
  Digits digits{Eigen::MatrixXf(pixel_count, count), {}};
  for (Eigen::Index column = 0; column < count; ++column) {
    const std::size_t label = random.below(class_count);
    const double down = random.uniform(-1.3, 1.3), right = random.uniform(-1.3, 1.3);
    const double intensity = random.uniform(0.5, 1), noise = 0.15;  // leave a few errors
    for (int k = 0; k < pixel_count; ++k) {
      const double value =
          intensity * ink_at(label, k / side - down, k % side - right) + noise * random.normal();
      const double rounded = std::round(highest_count * std::clamp(value, 0.0, 1.0));
      digits.pixels(k, column) = static_cast<float>(rounded) / highest_count;
    }
    digits.labels.push_back(static_cast<int>(label));
  }
  return digits;
}

}  // namespace digits
