// SPDX-License-Identifier: Apache-2.0
// Writes the files of this folder; see README.md. No part of the build: the files stay as they are.
#include <cstdio>
#include <filesystem>

#include "../earlier_runs.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::puts("usage: write_files FOLDER");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  earlier::each_run([&]<class Run>() {
    Run run;
    for (std::uint64_t n = 0; n < earlier::steps; ++n) {
      if (n == earlier::saved_after) {
        earlier::save(run, folder / (std::string(Run::name) + ".safetensors"),
                      {.metadata = {{"epoch", "3"}, {"note", "one \"line\"\nand another"}}});
      }
      run.step(n);
    }
    earlier::save(run, folder / (std::string(Run::name) + ".continued.safetensors"),
                  {.digests = false});
  });

  earlier::StoreRun run;
  polyak::SnapshotStore store(folder / earlier::StoreRun::name, {.run = "earlier"});
  for (std::uint64_t n = 0; n < run.steps; ++n) {
    run.step(n);
    if ((n + 1) % run.every != 0) continue;
    store.append("sharp", run.sharp);
    store.append("smooth", run.smooth);
  }
  store.append("ema", run.ema);
  polyak::reconstruct(
      store, {{polyak::ProfileTarget::sigma_rel(0.08), folder / "reconstructed.safetensors"}},
      {.use = [](const polyak::StoredSnapshot& one) { return one.average != "ema"; }});
  polyak::save_average(folder / "average.safetensors", run.model.params, run.ema);
}
