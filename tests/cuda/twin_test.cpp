// SPDX-License-Identifier: Apache-2.0
// Every method on a device against the same on the host, bit for bit.
#include <cstddef>
#include <functional>
#include <string>
#include <tuple>
#include <utility>

#include "../support/catch.hpp"
#include "../support/fused.hpp"
#include "../support/methods.hpp"
#include "twin.hpp"

namespace device_tests::twin_test {

using namespace polyak;

/// Makes one method for a list of the host, or for one on a device.
template <class Here, class There>
struct Twins {
  std::function<Here(const Parameters<float>&)> here;
  std::function<There(const cuda::Parameters<float>&)> there;
  auto operator()(const Parameters<float>& p) const { return std::tuple(here(p)); }
  auto operator()(const cuda::Parameters<float>& p) const { return std::tuple(there(p)); }
};

/// For each method of a list that runs on a device.
struct CheckTwins {
  template <class Make>
  void operator()(const methods::Method& method, Make make) const {
    using Here = methods::made_t<float, Make>;
    if constexpr (!Here::host_only) {
      using There = methods::made_t<twin::Device<float>, Make>;
      twin::check<float>(std::string(method.name), Twins<Here, There>{make, make});
    }
  }
};

TEST_CASE("optimizers on a device give the bits of the host: float") {
  methods::for_each_optimizer<float>(CheckTwins{});
  methods::for_each_schedule_free<float>(CheckTwins{});
}

TEST_CASE("averages on a device give the bits of the host: float") {
  twin::check<float>(
      "all that an average does",
      []<class P>(const Parameters<P>& p) { return std::tuple(fused::Scripted<P>(p, 0)); },
      fused::steps);
  twin::check<float>(
      "all that an average does, blending",
      []<class P>(const Parameters<P>& p) { return std::tuple(fused::Scripted<P>(p, 1)); },
      fused::steps);
  for (const Accumulate accumulate : {Accumulate::plain, Accumulate::kahan, Accumulate::float64}) {
    methods::for_each_average<float>(CheckTwins{}, accumulate);
    methods::for_each_window<float>(CheckTwins{}, accumulate);
  }
}

TEST_CASE("several averages on a device give the bits of the host") {
  twin::check<float>("Swa, EmaBank and Lawa", []<class P>(const Parameters<P>& p) {
    return std::tuple(Swa<P>(p, {.start = 3, .period = 2}), EmaBank<P, 3>(p, {0.75, 0.0, 0.9}),
                      Lawa<P>(p, {.checkpoints = 5}));
  });
}

TEST_CASE("fused methods on a device give the bits of the host at any alignment") {
  for (const std::size_t lead : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    twin::check<float>(
        "AdamW and two averages",
        []<class P>(const Parameters<P>& p) {
          return std::tuple(AdamW<P>(p), Ema<P>(p, {.decay = 0.9}),
                            Ema<P>(p, {.decay = 0.99, .start = Start::first_update}));
        },
        7, {5, 70, 0, 33, 4200}, lead, 3 - lead);
  }
}

TEST_CASE("other types on a device give the bits of the host") {
  twin::check<double>("double", []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p), Ema<P>(p, {.decay = 0.9}));
  });
  twin::check<float>("state of double", []<class P>(const Parameters<P>& p) {
    return std::tuple(Ema<P, double>(p, {.decay = 0.9}));
  });
  const auto sixteen = []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p, {.learning_rate = 0.01}), Ema<P>(p, {.decay = 0.9}));
  };
  twin::check<Eigen::half>("half", sixteen, 7, {5, 70, 8193});
  twin::check<Eigen::bfloat16>("bfloat16", sixteen, 7, {5, 70, 8193}, 3, 1);
}

TEST_CASE("averages of 16 bits on a device give the bits of the host") {
  twin::check<Eigen::bfloat16>(
      "stochastic",
      []<class P>(const Parameters<P>& p) {
        return std::tuple(Ema<P, Eigen::bfloat16>(
            p, {.decay = 0.999, .accumulate = Accumulate::stochastic, .seed = 7}));
      },
      7, {5, 70, 33, 129, 8200});
  twin::check<float>("stochastic half of float",
                     []<class P>(const Parameters<P>& p) {
                       return std::tuple(Ema<P, Eigen::half>(
                           p, {.decay = 0.999, .accumulate = Accumulate::stochastic, .seed = 7}));
                     },
                     7, {5, 70, 33, 129, 8200});
  twin::check<Eigen::bfloat16>("with compensation",
                               []<class P>(const Parameters<P>& p) {
                                 return std::tuple(Ema<P, Eigen::bfloat16>(
                                     p, {.decay = 0.999, .accumulate = Accumulate::kahan}));
                               },
                               7, {5, 70, 33, 129, 8200});
}

}  // namespace device_tests::twin_test
