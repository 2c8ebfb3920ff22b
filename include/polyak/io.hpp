// SPDX-License-Identifier: Apache-2.0
/// @file
/// Everything that reads and writes files, except snapshots and what is made of them, which few
/// programs need: io/snapshot_store.hpp and io/reconstruct.hpp. Needs nlohmann/json, and xxHash for
/// digests: link the CMake target polyak::io.
#pragma once

#include <polyak/io/atomic_file.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/mapped_file.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_header.hpp>
#include <polyak/io/safetensors_index.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/weights.hpp>
