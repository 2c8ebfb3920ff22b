// SPDX-License-Identifier: Apache-2.0
// Weights that keep their digits, on a device against the same on the host, bit for bit.
#include <string>
#include <tuple>

#include <polyak/optim/adamw.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"
#include "twin.hpp"

namespace device_tests::weight_digits_test {

using namespace polyak;

template <class P>
void check_sixteen(const std::string& name) {
  for (const Accumulate accumulate :
       {Accumulate::master, Accumulate::kahan, Accumulate::stochastic}) {
    twin::check<P>(
        name + " " + std::string(name_of(accumulate)),
        [accumulate]<class Q>(const Parameters<Q>& p) {
          return std::tuple(
              AdamW<Q>(p, {.learning_rate = 1e-3, .accumulate = accumulate, .seed = 5}));
        },
        5, {5, 70, 33, 129, 8200}, 3, 1);
  }
}

TEST_CASE("weights of 16 bits that keep their digits on a device have the bits of the host") {
  check_sixteen<Eigen::bfloat16>("bfloat16");
  check_sixteen<Eigen::half>("half");
}

TEST_CASE("laws without slots and Schedule-Free keep digits on a device as on the host") {
  twin::check<Eigen::bfloat16>("Sgd", []<class P>(const Parameters<P>& p) {
    return std::tuple(Sgd<P>(p, {.learning_rate = 1e-3, .accumulate = Accumulate::master}));
  });
  twin::check<Eigen::bfloat16>("ScheduleFreeSgd", []<class P>(const Parameters<P>& p) {
    return std::tuple(
        ScheduleFreeSgd<P>(p, {.learning_rate = 1e-2, .accumulate = Accumulate::master}));
  });
}

TEST_CASE("weights of float with state of double keep digits on a device as on the host") {
  twin::check<float>("float", []<class P>(const Parameters<P>& p) {
    return std::tuple(Lion<P, double>(p, {.learning_rate = 1e-6, .accumulate = Accumulate::kahan}));
  });
}

}  // namespace device_tests::weight_digits_test
