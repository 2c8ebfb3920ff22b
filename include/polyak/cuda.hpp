// SPDX-License-Identifier: Apache-2.0
/// @file
/// Everything for parameters on a GPU, in files that nvcc compiles. Needs the CUDA Toolkit (the
/// component polyak::cuda) but not Eigen: also include the methods that you use, not polyak.hpp.
#pragma once

#include <polyak/cuda/captured_step.hpp>
#include <polyak/cuda/clip.hpp>
#include <polyak/cuda/device.hpp>
#include <polyak/cuda/error.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/reduce.hpp>
#include <polyak/cuda/skipped_steps.hpp>
#include <polyak/cuda/streams.hpp>
#include <polyak/cuda/sweep.hpp>
#include <polyak/cuda/transfer.hpp>
