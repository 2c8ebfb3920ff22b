// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <fstream>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace char_lm {
namespace {

void write_number(std::ostream& out, const std::optional<double>& value) {
  if (value) out << *value;  // an empty field otherwise
}

std::string fixed(const std::optional<double>& value, int digits) {
  if (!value) return "-";
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << *value;
  return text.str();
}

template <typename Write>
void write_file(const std::filesystem::path& path, Write&& write) {
  std::ofstream file(path);
  file << std::setprecision(7);
  write(file);
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace

void print_methods(std::ostream& out, const Report& report) {
  const auto row = [&](const std::string& name, const std::string& raw, const std::string& averaged,
                       const std::string& speed, const std::string& state) {
    out << std::left << std::setw(30) << name << std::right << std::setw(10) << raw << std::setw(10)
        << averaged << std::setw(10) << speed << std::setw(14) << state << '\n';
  };
  out << std::string(34, ' ') << "validation loss\n";
  row("method", "raw", "averaged", "steps/s", "state (bytes)");
  out << std::string(74, '-') << '\n';
  for (const MethodResult& method : report.methods) {
    row(method.name, fixed(method.raw_loss, 4), fixed(method.averaged_loss, 4),
        fixed(method.steps_per_second, 0), std::to_string(method.state_bytes));
  }
}

void print_sweep(std::ostream& out, const Report& report) {
  out << "sigma_rel   residual   validation loss (nats)\n" << std::string(45, '-') << '\n';
  for (const SweepPoint& point : report.sweep) {
    out << std::setw(9) << fixed(point.sigma_rel, 2) << std::setw(11) << fixed(point.residual, 5)
        << std::setw(25) << fixed(point.loss, 4) << '\n';
  }
}

void prepare_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw std::runtime_error("cannot create the folder " + folder.string() + ": " +
                             error.message());
  }
  write_file(folder / "summary.csv", [](std::ostream&) {});
}

void write_csv(const std::filesystem::path& folder, const Report& report) {
  write_file(folder / "curves.csv", [&](std::ostream& out) {
    out << "step";
    for (const Curve& curve : report.curves) out << ',' << curve.name;
    out << '\n';
    for (std::size_t i = 0; i < report.steps.size(); ++i) {
      out << report.steps[i];
      for (const Curve& curve : report.curves) {
        out << ',';
        write_number(out, curve.losses[i]);
      }
      out << '\n';
    }
  });
  write_file(folder / "sweep.csv", [&](std::ostream& out) {
    out << "sigma_rel,residual,validation_loss\n";
    for (const SweepPoint& point : report.sweep) {
      out << point.sigma_rel << ',' << point.residual << ',' << point.loss << '\n';
    }
  });
  write_file(folder / "summary.csv", [&](std::ostream& out) {
    out << "method,raw_validation_loss,averaged_validation_loss,steps_per_second,state_bytes\n";
    for (const MethodResult& method : report.methods) {
      out << method.name << ',';
      write_number(out, method.raw_loss);
      out << ',';
      write_number(out, method.averaged_loss);
      out << ',' << method.steps_per_second << ',' << method.state_bytes << '\n';
    }
  });
}

}  // namespace char_lm
