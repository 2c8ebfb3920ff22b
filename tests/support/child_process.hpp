// SPDX-License-Identifier: Apache-2.0
/// @file
/// Parts of tests that run in processes of their own.
#pragma once

#include <optional>

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catch.hpp"

/// Starts a process that ends with the result of `body`, or with 99 if it throws.
template <class Body>
[[nodiscard]] ::pid_t start_child(Body body) {
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int result = 99;
    try {
      result = body();
    } catch (...) {
    }
    ::_exit(result);
  }
  return child;
}

/// Waits for the end of a process and returns its result; -1 if it is killed.
[[nodiscard]] inline int result_of(::pid_t child) {
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Runs `body` in a process of its own and returns its result, as start_child() and result_of() do.
/// For another user, the result is 0 where the user cannot be changed.
template <class Body>
[[nodiscard]] int in_child(Body body, std::optional<::uid_t> user = std::nullopt) {
  if (user && ::geteuid() != 0) return 0;
  return result_of(start_child([&]() -> int {
    if (user && ::setuid(*user) != 0) return 0;
    return body();
  }));
}
