// SPDX-License-Identifier: Apache-2.0
/// @file
/// io_error: a file cannot be read or written, or is damaged.
#pragma once

#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <polyak/core/require.hpp>

#if !defined(__unix__) && !defined(__APPLE__)
#error "polyak/io needs POSIX: Linux, macOS or another Unix"
#endif

namespace polyak {
inline namespace POLYAK_V0 {

/// A file that cannot be read or written, or whose content breaks a rule. When it is thrown, no
/// object and no file has changed, unless replaced() is true.
class io_error : public std::runtime_error {
 public:
  /// Builds the message from a file and, if not empty, a tensor and a rule.
  struct Report {
    std::filesystem::path file;
    std::string tensor, rule, what;
    bool replaced = false;
    int system_error = 0;
  };

  explicit io_error(Report report)
      : std::runtime_error(message(report)), report_(std::move(report)) {}

  [[nodiscard]] const std::filesystem::path& file() const { return report_.file; }
  /// The tensor's name; empty if no tensor is at fault.
  [[nodiscard]] const std::string& tensor() const { return report_.tensor; }
  /// The broken rule of the format, "R1" to "R12" of safetensors, or empty.
  [[nodiscard]] const std::string& rule() const { return report_.rule; }

  /// Whether files have been replaced all the same; the message says which, and what is not
  /// certain.
  [[nodiscard]] bool replaced() const { return report_.replaced; }

  /// The errno of the system call that failed, or 0.
  [[nodiscard]] int system_error() const { return report_.system_error; }

  [[nodiscard]] static std::string message(const Report& report) {
    std::string words = "polyak: " + report.file.string() + ": ";
    if (!report.tensor.empty()) words += "tensor " + detail::text(report.tensor) + ": ";
    words += report.what;
    if (!report.rule.empty()) words += " (" + report.rule + ")";
    // Names come from files, so control characters are shown as codes.
    std::string line;
    for (const char c : words) {
      const auto code = static_cast<unsigned char>(c);
      if (code >= 0x20 && code != 0x7f) {
        line += c;
      } else {
        line.append("\\x")
            .append(1, "0123456789abcdef"[code >> 4])
            .append(1, "0123456789abcdef"[code & 15]);
      }
    }
    return line;
  }

 private:
  Report report_;
};

namespace detail {

[[noreturn]] POLYAK_COLD inline void refuse_io(io_error::Report report) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  throw io_error(std::move(report));
#else
  end_program("io_error", io_error::message(report));
#endif
}

[[noreturn]] POLYAK_COLD inline void refuse_io(const std::filesystem::path& file,
                                               std::string tensor, std::string rule,
                                               std::string what) {
  refuse_io({file, std::move(tensor), std::move(rule), std::move(what)});
}

/// Throws io_error for a failed system call, with the system's message.
[[noreturn]] POLYAK_COLD inline void refuse_errno(const std::filesystem::path& file,
                                                  std::string_view call, int error) {
  refuse_io({file,
             {},
             {},
             std::string(call) + " failed: " + std::generic_category().message(error),
             false,
             error});
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
