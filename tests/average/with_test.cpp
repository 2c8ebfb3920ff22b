// SPDX-License-Identifier: Apache-2.0
// Decays of Ema and EmaBank that change between calls.
#include <cmath>
#include <cstddef>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/snapshot_store.hpp>

#include "catch.hpp"
#include "refuses.hpp"
#include "temporary_folder.hpp"

namespace average_with_test {

using namespace polyak;

TEST_CASE("with() changes the decay of an Ema from the next call on") {
  std::vector<double> x{1};
  Parameters<double> params;
  params.add("x", x);
  Ema<double> ema(params, {.decay = 0.75});
  double expected = 1;
  const auto update = [&](double value, double gain) {
    x[0] = value;
    ema.update(params);
    expected = std::fma(gain, value - expected, expected);
    CHECK(ema.view()[0][0] == expected);
  };
  update(2, 0.25);
  ema.with({.decay = 0.75});
  CHECK(ema.calls_before_change() == 0);
  ema.with({.decay = 0.5});
  CHECK(ema.view()[0][0] == expected);
  CHECK(ema.weighting().decay == 0.5);
  CHECK(ema.calls_before_change() == 1);
  update(4, 0.5);
  update(8, 0.5);
  ema.with({.decay = 0.875, .nonfinite = Nonfinite::error});
  update(-1, 0.125);
  CHECK(ema.nonfinite() == Nonfinite::error);
  CHECK(ema.calls_before_change() == 3);
}

TEST_CASE("a changed decay is saved and compared") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "run.safetensors";
  std::vector<float> x{1, 2}, y(2);
  Parameters<float> params, later;
  params.add("x", x);
  later.add("x", y);
  Ema<float> ema(params, {.decay = 0.75}), old(later, {.decay = 0.75}), same(later, {.decay = 0.5});
  ema.update(params);
  ema.with({.decay = 0.5});
  save(path, params, ema);
  CHECK(refuses([&] { load(path, later, old); }, {"\"decay\" is 0.5 in the file, 0.75 here"}));
  load(path, later, same);
  CHECK(state_bytes(same) == state_bytes(ema));
  CHECK(same.calls_before_change() == 1);
}

TEST_CASE("with() refuses what an Ema cannot change, and changes nothing") {
  std::vector<float> x{1, 2};
  Parameters<float> params;
  params.add("x", x);
  Ema<float> ema(params, {.decay = 0.75});
  ema.update(params);
  const auto before = state_bytes(ema);
  CHECK(refuses([&] { ema.with({.decay = 1.5}); }, {"EmaOptions.decay", "1.5"}));
  CHECK(refuses([&] { ema.with({.decay = 0.5, .start = Start::first_update}); },
                {"start at params", "first_update"}));
  CHECK(refuses([&] { ema.with({.decay = 0.5, .update_every = 2}); }, {"update_every at 1", "2"}));
  CHECK(refuses([&] { ema.with({.decay = 0.5, .accumulate = Accumulate::kahan}); },
                {"accumulate at plain", "kahan"}));
  CHECK(refuses([&] { ema.with({.decay = 0.5, .seed = 3}); }, {"seed at 0", "3"}));
  CHECK(state_bytes(ema) == before);

  Ema<float> debiased(params, {.decay = 0.75, .start = Start::zero_debiased});
  CHECK(refuses([&] { debiased.with({.decay = 0.5, .start = Start::zero_debiased}); },
                {"decay at 0.75", "0.5"}));
  Ema<float, Eigen::bfloat16> narrow(params, {.decay = 0.5});  // a larger decay would stall
  CHECK(refuses([&] { narrow.with({.decay = 0.999}); }, {"stall"}));
  CHECK(narrow.weighting().decay == 0.5);
}

TEST_CASE("with() changes the decays of a bank as those of single averages") {
  std::vector<float> x{1, 2};
  Parameters<float> params;
  params.add("x", x);
  EmaBank<float, 2> bank(params, {0.5, 0.75}), same(params, {0.5, 0.875});
  Ema<float> one(params, {.decay = 0.75});
  const auto update = [&](float value) {
    x = {value, -value};
    bank.update(params);
    one.update(params);
    for (std::size_t i = 0; i < 2; ++i) CHECK(bank.view(1)[0][i] == one.view()[0][i]);
  };
  update(3);
  bank.with({0.5, 0.875}, {});
  one.with({.decay = 0.875});
  update(-4);
  update(5);
  CHECK(bank.decay(1) == 0.875);
  CHECK(bank.average(0).calls_before_change() == 1);
  const auto before = state_bytes(bank);
  CHECK(refuses([&] { bank.with({0.5, 1.5}, {}); }, {"EmaOptions.decay", "1.5"}));
  CHECK(refuses([&] { bank.with({0.5, 0.5}, {.seed = 2}); }, {"seed at 0", "2"}));
  CHECK(state_bytes(bank) == before);
  restore_state(same, before);
  CHECK(state_bytes(same) == before);
}

TEST_CASE("an average whose decay changed cannot be stored as a snapshot") {
  const TemporaryFolder folder;
  std::vector<float> x{1, 2};
  Parameters<float> params;
  params.add("x", x);
  Ema<float> ema(params, {.decay = 0.75});
  ema.update(params);
  SnapshotStore store(folder.path() / "snapshots");
  CHECK_NOTHROW(store.append("ema", ema));
  ema.with({.decay = 0.5});
  ema.update(params);
  CHECK(refuses([&] { store.append("ema", ema); }, {"one weighting", "1"}));
}

}  // namespace average_with_test
