// SPDX-License-Identifier: Apache-2.0
// The second translation unit of all headers; the first is generated.
#include <all_headers.hpp>

#include <cstdio>
#include <string_view>

int main() {
  if (std::string_view(POLYAK_VERSION_STRING) != POLYAK_EXPECTED_VERSION ||
      POLYAK_VERSION !=
          10000 * POLYAK_VERSION_MAJOR + 100 * POLYAK_VERSION_MINOR + POLYAK_VERSION_PATCH) {
    std::printf("version.hpp says %s, CMake read %s\n", POLYAK_VERSION_STRING,
                POLYAK_EXPECTED_VERSION);
    return 1;
  }
  return 0;
}
