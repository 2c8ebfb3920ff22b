// SPDX-License-Identifier: Apache-2.0
/// @file
/// One tensor and its gradient, registered: the smallest model there is.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/optim/elementwise.hpp>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

template <class P = double>
struct OneTensor {
  std::vector<P> x, gradient;
  polyak::Parameters<P> params;
  polyak::Gradients<P> grads;

  explicit OneTensor(std::vector<P> start)
      : x(std::move(start)), gradient(x.size()), params(), grads((params.add("x", x), params)) {
    grads.set("x", gradient);
  }
  OneTensor(const OneTensor&) = delete;
  OneTensor& operator=(const OneTensor&) = delete;
};

/// Two tensors; the second joins late: one step with and one without its gradient.
template <class P = double>
struct TwoTensors {
  std::vector<P> first{1, 2, 3}, second{4, 5}, first_gradient{0, 0, 0}, second_gradient{0, 0};
  polyak::Parameters<P> params;
  polyak::Gradients<P> both, one;

  TwoTensors() : params(), both((fill(), params)), one(params) {
    both.set("first", first_gradient).set("second", second_gradient);
    one.set("first", first_gradient);
  }
  TwoTensors(const TwoTensors&) = delete;
  TwoTensors& operator=(const TwoTensors&) = delete;

 private:
  void fill() { params.add("first", first).add("second", second); }
};

/// at() refuses bad rates and keeps the old one.
template <class Optimizer>
void check_bad_rates_are_refused(Optimizer& optimizer) {
  const double before = optimizer.learning_rate();
  for (const double bad : {-0.5, nan_value, infinity, -infinity}) {
    std::ostringstream expected;
    expected << "polyak: learning_rate must be finite and >= 0, got " << bad;
    CHECK(refusal<std::invalid_argument>([&] { optimizer.at(bad); }) == expected.str());
    CHECK(optimizer.learning_rate() == before);
  }
  CHECK(optimizer.at(before).learning_rate() == before);
}

/// Bad values for fields of any kind.
inline const std::initializer_list<double> not_a_rate{-0.5, nan_value, infinity, -infinity};
inline const std::initializer_list<double> not_a_beta{-0.5, 1, 1.5, nan_value, infinity, -infinity};
