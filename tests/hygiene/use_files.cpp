// SPDX-License-Identifier: Apache-2.0
// Everything that reads and writes files, compiled without exceptions and RTTI. The argument is a
// folder to work in.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <polyak/average/power_ema.hpp>
#include <polyak/compiled.hpp>
#include <polyak/io.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/optim/sgd.hpp>

namespace {

void check(bool holds, const char* what) {
  if (!holds) {
    std::printf("failed: %s\n", what);
    std::exit(1);
  }
}

struct Run {
  std::vector<float> weights = std::vector<float>(100, 1.0F), gradient = weights;
  polyak::Parameters<float> params;
  polyak::Gradients<float> grads;
  polyak::Sgd<float> sgd;
  polyak::PowerEma<float> sharp, smooth;
  Run()
      : grads((params.add("weights", weights), polyak::like(params, gradient))),
        sgd(params, {.learning_rate = 0.1, .momentum = 0.9}),
        sharp(params, {.sigma_rel = 0.05}),
        smooth(params, {.sigma_rel = 0.1}) {}
  void step() {
    gradient = weights;
    polyak::step(params, grads, sgd, sharp, smooth);
  }
};

}  // namespace

int main(int count, char** arguments) {
  check(count == 2, "one argument");
  const std::filesystem::path folder = arguments[1];
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  std::filesystem::create_directories(folder, ignored);

  Run run, resumed;
  polyak::SnapshotStore store(folder / "store");
  for (int step = 1; step <= 32; ++step) {
    run.step();
    if (step % 4 != 0) continue;
    store.append("sharp", run.sharp);
    store.append("smooth", run.smooth);
  }
  polyak::save(folder / "run.safetensors", run.params, run.sgd, run.sharp, run.smooth);
  polyak::load(folder / "run.safetensors", resumed.params, resumed.sgd, resumed.sharp,
               resumed.smooth);
  run.step();
  resumed.step();
  check(run.weights == resumed.weights, "a resumed run goes on");

  polyak::save_average(folder / "average", run.params, run.smooth, {.shard_bytes = 1});
  Run other;
  polyak::load_weights(folder / "average", other.params);
  check(other.weights[0] == run.smooth.view()["weights"][0], "an average is read back");

  const auto report = polyak::reconstruct(
      polyak::SnapshotStore::read_only(folder / "store"),
      {{polyak::ProfileTarget::sigma_rel(0.075), folder / "reconstructed.safetensors"}});
  check(report.complete && report.fits[0].residual < 0.1, "an average is reconstructed");
  polyak::SafetensorsFile(folder / "reconstructed.safetensors").verify();
  return 0;
}
