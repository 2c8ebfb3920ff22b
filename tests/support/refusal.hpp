// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tests of refusals: the exception and its message.
#pragma once

#include <initializer_list>
#include <sstream>
#include <string>
#include <type_traits>
#include <typeinfo>

#include "catch.hpp"

/// The message of the Error (not of a class derived from it) that `call` throws; fails the test if
/// it throws nothing or something else.
template <class Error, class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    INFO("the message is: " << error.what());
    CHECK(typeid(error) == typeid(Error));
    return error.what();
  }
  FAIL_CHECK("nothing was refused");
  return {};
}

/// `make` accepts `valid`, and refuses it with each bad value of one field: std::invalid_argument
/// "polyak: RULE, got VALUE".
template <class Options, class Value, class Make>
void check_refused(Make&& make, const Options& valid, Value Options::*field,
                   const std::string& rule,
                   std::initializer_list<std::type_identity_t<Value>> bad) {
  CHECK_NOTHROW(make(valid));
  for (const Value value : bad) {
    std::ostringstream expected;
    expected << "polyak: " << rule << ", got " << value;
    INFO(expected.str());
    Options options = valid;
    options.*field = value;
    CHECK(refusal<std::invalid_argument>([&] { make(options); }) == expected.str());
  }
}
