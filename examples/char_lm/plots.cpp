// SPDX-License-Identifier: Apache-2.0
#include "plots.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace char_lm {
namespace {

// Makes a folder the current one, so that scripts and commands name plain files and quote no path.
class CurrentFolder {
 public:
  explicit CurrentFolder(const std::filesystem::path& folder)
      : previous_(std::filesystem::current_path()) {
    std::filesystem::current_path(folder);
  }
  CurrentFolder(const CurrentFolder&) = delete;
  CurrentFolder& operator=(const CurrentFolder&) = delete;
  ~CurrentFolder() {
    std::error_code ignored;
    std::filesystem::current_path(previous_, ignored);
  }

 private:
  std::filesystem::path previous_;
};

// In single quotes gnuplot interprets nothing but the quote itself.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') result += '\'';
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "'";
}

std::string heading(const std::string& output, const std::string& title) {
  return "set terminal svg size 960,560 noenhanced font 'sans-serif,14' background 'white'\n"
         "set output " +
         quoted(output) +
         "\n"
         "set datafile separator comma\n"
         "set title " +
         quoted(title) +
         "\n"
         "set grid linecolor 'gray85'\n";
}

std::string curves_script(const Report& report) {
  // The colours of Okabe and Ito, apart for colour-blind eyes too; the two sets of weights of
  // Schedule-Free share one.
  constexpr std::array colours{"black",   "gray50",  "#e69f00", "#56b4e9", "#009e73",
                               "#cc79a7", "#7f3c8d", "#d55e00", "#0072b2", "#0072b2"};
  double lowest = HUGE_VAL;
  for (const Curve& curve : report.curves) {
    for (const auto& loss : curve.losses) lowest = std::min(lowest, loss.value_or(lowest));
  }
  std::string script = heading("curves.svg", "Training on " + report.corpus +
                                                 " (dashed: raw weights, solid: averages)") +
                       "set xlabel 'training step'\n"
                       "set ylabel 'validation loss (nats per character)'\n"
                       "set key outside right top Left reverse\n"
                       "set xrange [0:*] noextend\n"
                       "set yrange [*:" +
                       std::to_string(lowest + 0.5) +
                       "]\n"
                       "plot \\\n";
  for (std::size_t i = 0; i < report.curves.size(); ++i) {
    const Curve& curve = report.curves[i];
    script += "  'curves.csv' using 1:" + std::to_string(i + 2) +
              " with lines linewidth 2 dashtype " + (curve.averaged ? "1" : "2") + " linecolor '" +
              colours[i % colours.size()] + "' title " + quoted(curve.name) +
              (i + 1 < report.curves.size() ? ", \\\n" : "\n");
  }
  return script;
}

std::string sweep_script(const Report& report) {
  std::string tracked = "$tracked << end\n";
  for (const SweepPoint& point : report.tracked) {
    tracked += std::to_string(point.sigma_rel) + "," + std::to_string(point.loss) + "\n";
  }
  // The residual of a tracked width is next to nothing, so the axis ends at 1e-4.
  return heading("sweep.svg", "Power EMAs reconstructed after training on " + report.corpus) +
         tracked +
         "end\n"
         "set xlabel 'relative width of the power EMA, sigma_rel'\n"
         "set ylabel 'validation loss (nats per character)'\n"
         "set y2label 'residual of the profile (relative L2 norm)'\n"
         "set ytics nomirror\n"
         "set y2tics\n"
         "set logscale y2\n"
         "set y2range [1e-4:1]\n"
         "set format y2 '%.0e'\n"
         "set key top center\n"
         "plot 'sweep.csv' skip 1 using 1:3 with linespoints linewidth 2 pointtype 7 pointsize 0.6 "
         "linecolor '#0072b2' title 'validation loss, reconstructed (left)', \\\n"
         "  $tracked using 1:2 with points linewidth 2 pointtype 6 pointsize 1.6 "
         "linecolor 'black' title 'validation loss, tracked in training (left)', \\\n"
         "  'sweep.csv' skip 1 using 1:($2 > 1e-5 ? $2 : 1e-5) axes x1y2 with lines linewidth 2 "
         "dashtype 2 linecolor '#d55e00' title 'residual (right)'\n";
}

void write_script(const std::string& name, const std::string& script) {
  std::ofstream file(name);
  file << script;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + name);
}

bool succeeds(const std::string& command) { return std::system(command.c_str()) == 0; }

}  // namespace

bool draw_plots(const std::filesystem::path& folder, const Report& report) {
  const CurrentFolder here(folder);
  write_script("curves.gp", curves_script(report));
  write_script("sweep.gp", sweep_script(report));
  return succeeds("gnuplot --version > /dev/null 2>&1") && succeeds("gnuplot curves.gp") &&
         succeeds("gnuplot sweep.gp");
}

}  // namespace char_lm
