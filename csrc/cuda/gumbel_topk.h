// Gumbel top-k on the device: the draws of csrc/cpu/gumbel_topk.h, up to near-ties.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "noise_key.h"

namespace irecgan::cuda {

// Pointers are device memory, contiguous. A row with NaN or +inf among its logits gets (NaN, -1) everywhere; draws
// beyond a row's finite logits are (-inf, -1). Nothing of that can be raised without waiting for the device.
template <typename T>
struct GumbelTopk {
  const T* logits;  // [R, C]
  NoiseKey key;
  int64_t count;      // R
  int64_t items;      // C, at most 2^30
  int64_t k;          // 1..C
  double* log_times;  // [R, block_count(C)] scratch
  uint64_t* taken;    // [R, block_count(C)] scratch
  T* values;          // [R, k]
  int64_t* indices;   // [R, k]
};

// Asynchronous. Two launches; none for no rows.
cudaError_t launch_gumbel_topk(cudaStream_t stream, const GumbelTopk<float>& op);
cudaError_t launch_gumbel_topk(cudaStream_t stream, const GumbelTopk<double>& op);

}  // namespace irecgan::cuda
