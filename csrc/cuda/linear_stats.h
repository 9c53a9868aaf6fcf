// Statistics of a linear layer's outputs per row and block of items, whose logits stay in registers: what the race
// (linear_gumbel_topk) and the log-sum-exp (linear_log_prob) need of them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../math/bfloat16.h"
#include "logit_stats.h"

namespace irecgan::cuda {

// hidden . weight_i + bias_i. Pointers are device memory, contiguous.
template <typename T>
struct LinearLayer {
  const T* hidden;  // [R, H]
  const T* weight;  // [C, H]
  const T* bias;    // [C], or null
  int64_t rows;     // R
  int64_t items;    // C, at most 2^30
  int64_t width;    // H
};

// Whether rows can be read 16 bytes at a time.
template <typename T>
bool aligned(const LinearLayer<T>& layer) {
  const auto both = reinterpret_cast<uintptr_t>(layer.hidden) | reinterpret_cast<uintptr_t>(layer.weight);
  return both % 16 == 0 && layer.width * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

template <typename T>
struct LinearStats {
  LinearLayer<T> layer;
  const uint64_t* excluded;  // [R, block_count(C)] bit i: item 64 * block + i does not count; or null
  const int64_t* targets;    // [R], or null
  float* target_logits;      // [R], written for the targets in 0..C - 1; or null
  LogitStats<float>* stats;  // [R, block_count(C)]
};

// Asynchronous. One launch; none for no rows or no items.
cudaError_t launch_linear_stats(cudaStream_t stream, const LinearStats<float>& op);
cudaError_t launch_linear_stats(cudaStream_t stream, const LinearStats<BFloat16>& op);

}  // namespace irecgan::cuda
