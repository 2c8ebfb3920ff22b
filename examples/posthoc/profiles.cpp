// SPDX-License-Identifier: Apache-2.0
#include "profiles.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace posthoc {
namespace {

/// Points of each curve, at most.
constexpr std::size_t points = 2000;

std::string script(const std::vector<ProfilePair>& profiles) {
  // The colours of Okabe and Ito, apart for colour-blind eyes too.
  constexpr std::array colours{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                               "#e69f00", "#56b4e9", "black"};
  std::string text =
      "set terminal svg size 960,560 noenhanced font 'sans-serif,14' background 'white'\n"
      "set output 'profiles.svg'\n"
      "set datafile separator comma\n"
      "set title 'Weights of iterates: wanted (dashed) and achieved'\n"
      "set xlabel 'call'\n"
      "set ylabel 'weight'\n"
      "set grid linecolor 'gray85'\n"
      "set key top left Left reverse\n"
      "plot \\\n";
  for (std::size_t k = 0; k < profiles.size(); ++k) {
    const std::string colour = colours[k % colours.size()];
    const std::string column = std::to_string(2 * k + 2);
    const std::string next = std::to_string(2 * k + 3);
    text += "  'profiles.csv' skip 1 using 1:" + next + " with lines linewidth 2 linecolor '" +
            colour + "' title '" + profiles[k].name + "', \\\n" +
            "  'profiles.csv' skip 1 using 1:" + column +
            " with lines linewidth 1 dashtype 2 linecolor 'black' notitle" +
            (k + 1 < profiles.size() ? ", \\\n" : "\n");
  }
  return text;
}

std::string number(double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  return digits;
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace

bool draw_profiles(const std::filesystem::path& folder, const std::vector<ProfilePair>& profiles) {
  std::string table = "call";
  std::size_t calls = 0;
  for (const ProfilePair& pair : profiles) {
    calls = std::max(calls, pair.achieved.size());
    table += "," + pair.name + " (wanted)," + pair.name + " (achieved)";
  }
  table += '\n';
  const std::size_t step = std::max<std::size_t>(1, calls / points);
  for (std::size_t t = 0; t < calls; t += step) {
    table += std::to_string(t);
    for (const ProfilePair& pair : profiles) {
      for (const auto* column : {&pair.wanted, &pair.achieved}) {
        table += t < column->size() ? "," + number((*column)[t]) : ",";
      }
    }
    table += '\n';
  }
  write(folder / "profiles.csv", table);
  write(folder / "profiles.gp", script(profiles));
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(folder);  // so that commands name plain files and quote no path
  const bool drawn = std::system("gnuplot --version > /dev/null 2>&1") == 0 &&
                     std::system("gnuplot profiles.gp") == 0;
  std::filesystem::current_path(here);
  return drawn;
}

}  // namespace posthoc
