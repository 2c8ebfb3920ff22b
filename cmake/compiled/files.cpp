// SPDX-License-Identifier: Apache-2.0
// The functions of files, for the compiled library.
#include <polyak/io/atomic_file.ipp>
#include <polyak/io/descriptors.ipp>
#include <polyak/io/digest.ipp>
#include <polyak/io/mapped_file.ipp>
#include <polyak/io/model_folder.ipp>
#include <polyak/io/model_index.ipp>
#include <polyak/io/reconstruct.ipp>
#include <polyak/io/row_major.ipp>
#include <polyak/io/safetensors.ipp>
#include <polyak/io/safetensors_header.ipp>
#include <polyak/io/safetensors_index.ipp>
#include <polyak/io/save.ipp>
#include <polyak/io/shared_work.ipp>
#include <polyak/io/snapshot_store.ipp>
#include <polyak/io/state_match.ipp>
#include <polyak/io/state_record.ipp>
#include <polyak/io/tensor_reads.ipp>
#include <polyak/io/weights.ipp>
