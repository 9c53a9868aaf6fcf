// Output projection and slate in one: the logits [R, C] are never in memory. Raw pointers only.
#pragma once

#include "kernels.h"
#include "race_buffers.h"
#include "runtime.h"

namespace irecgan::cpu {

struct ProjectedRows {
  const float* hidden;  // [R, H]
  const int64_t* ids;   // [R] global row ids
  int64_t count;        // R
  uint64_t seed;
  uint32_t step;
};

struct ProjectedDraws {
  float* values;     // [R, k]
  int64_t* indices;  // [R, k]
  float* logsumexp;  // [R], of the items that may be drawn
  float* log_prob;   // [R] of the slates, or null
};

// Statistics of every block of hidden [count, H], projected: to stats[row * block_count(C) + block].
void project_stats(const Runtime& runtime, const Projection& projection, const float* hidden, int64_t count,
                   BlockStats<float> stats);

void linear_gumbel_topk(const Runtime& runtime, const Projection& projection, const ProjectedRows& rows, int64_t k,
                        const ProjectedDraws& out, RowFault& fault);

}  // namespace irecgan::cpu
