// SPDX-License-Identifier: Apache-2.0
/// @file
/// A system whose n-th call fails: the functions that file code calls are defined by the program
/// itself (failing_system.cpp), so that the library's code, header-only or compiled, and the
/// standard library's call them.
#pragma once

#include <string>

namespace failing_system {

/// What fails. Counts from 1 the calls that are made while it is armed.
struct Plan {
  long at = 0;                ///< the number of the call that fails; 0: none
  int error = 0;              ///< its errno
  bool from_then_on = false;  ///< all later calls fail too, except those that only look or clean up
  bool half = false;          ///< a write writes half of its bytes instead of failing
};

/// Calls fail by a plan as long as this lives.
class Armed {
 public:
  explicit Armed(const Plan& plan);
  Armed(const Armed&) = delete;
  Armed& operator=(const Armed&) = delete;
  ~Armed();
};

/// The name of the first call that failed by the last plan, or nothing.
[[nodiscard]] const std::string& failed();

}  // namespace failing_system
