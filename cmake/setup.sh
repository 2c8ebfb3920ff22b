#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what the presets need and this machine lacks: cmake/setup.sh [--ci]
# With --ci also what only the checks of .ci/run need. Installs on Debian and Ubuntu; elsewhere it
# says what is missing, and fails if nothing can be built without it.
set -eu

# Each function ends well if its package has nothing to add.
have_command() { command -v "$1" >/dev/null 2>&1; }
have_library() { have_command pkg-config && pkg-config --exists "$1"; }
have_sanitizers() {
  have_command clang++ &&
    echo 'int main() {}' | clang++ -fsanitize=address,undefined -x c++ - -o /dev/null 2>/dev/null
}
have_cmake() {
  have_command cmake &&
    [ "$(printf '3.25\n%s\n' "$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')" |
      sort -V | head -n 1)" = 3.25 ]
}

necessary=
useful=
have_command g++ || have_command "${CXX:-c++}" || necessary="$necessary g++"
have_cmake || necessary="$necessary cmake"
have_command ninja || necessary="$necessary ninja-build"
have_command pkg-config || necessary="$necessary pkg-config"
have_library eigen3 || necessary="$necessary libeigen3-dev"
have_library catch2 || have_library catch2-with-main || necessary="$necessary catch2"
have_library nlohmann_json || necessary="$necessary nlohmann-json3-dev"
have_library CLI11 || necessary="$necessary libcli11-dev"
have_library libxxhash || useful="$useful libxxhash-dev"
have_library benchmark || useful="$useful libbenchmark-dev"
have_command gnuplot || useful="$useful gnuplot-nox"
if [ "${1:-}" = --ci ]; then
  have_command clang++ || necessary="$necessary clang"
  have_command clang-format || necessary="$necessary clang-format"
  have_command clang-tidy || necessary="$necessary clang-tidy"
  have_sanitizers || necessary="$necessary libclang-rt-dev"
  if [ "$(uname -m)" = x86_64 ]; then
    have_command qemu-aarch64 && have_command qemu-x86_64 || necessary="$necessary qemu-user"
    have_command aarch64-linux-gnu-g++ || necessary="$necessary g++-aarch64-linux-gnu"
  fi
fi
missing="$necessary$useful"
[ -n "$missing" ] || exit 0

if ! have_command apt-get; then
  echo "setup: please install what Debian calls$missing (cmake from 3.25 on)"
  [ -z "$necessary" ]
  exit
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! have_command sudo; then
    echo "setup: as root, please run: apt-get install$missing"
    [ -z "$necessary" ]
    exit
  fi
  as_root=sudo
fi

echo "setup: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" \
    </dev/null >"$log" 2>&1 || {
    cat "$log"
    echo "setup: apt-get $* failed"
    exit 1
  }
}
apt update
# shellcheck disable=SC2086
apt install -y --no-install-recommends $missing
if ! have_cmake; then
  echo "setup: $(cmake --version | head -n 1) is too old for the presets, which need 3.25"
  exit 1
fi
