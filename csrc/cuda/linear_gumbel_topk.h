// Output projection and slate in one on the device: the draws of csrc/cpu/linear_gumbel_topk.h, up to near-ties.
#pragma once

#include "linear_stats.h"
#include "noise_key.h"

namespace irecgan::cuda {

// Pointers are device memory, contiguous. Nothing can be raised without waiting for the device: a row with NaN or +inf
// among its logits gets (NaN, -1) everywhere and logsumexp NaN; draws beyond a row's finite logits are (-inf, -1).
template <typename T>
struct LinearGumbelTopk {
  LinearLayer<T> layer;
  NoiseKey key;
  int64_t k;               // 1..C
  const int64_t* exclude;  // [R, X] items that row r does not draw; entries outside 0..C - 1 name none; or null
  int64_t exclude_width;   // X
  const bool* mask;        // [C], or [R, C] if mask_per_row; false: not drawn; or null
  bool mask_per_row;
  uint64_t* excluded;        // [R, block_count(C)] scratch; null where exclude and mask are
  LogitStats<float>* stats;  // [R, block_count(C)] scratch
  double* log_times;         // [R, block_count(C)] scratch
  uint64_t* taken;           // [R, block_count(C)] scratch
  float* values;             // [R, k]
  int64_t* indices;          // [R, k]
  float* logsumexp;          // [R], of the items that may be drawn
  float* drawn_logits;       // [R, k] scratch; null where log_prob is
  float* log_prob;           // [R] of the slates, NaN for one of fewer than k items; or null
};

// Asynchronous. Two launches, up to four with exclusions; none for no rows.
cudaError_t launch_linear_gumbel_topk(cudaStream_t stream, const LinearGumbelTopk<float>& op);
cudaError_t launch_linear_gumbel_topk(cudaStream_t stream, const LinearGumbelTopk<BFloat16>& op);

}  // namespace irecgan::cuda
