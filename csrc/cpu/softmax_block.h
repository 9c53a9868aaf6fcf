// Blocks of a log softmax and of its gradient, for one instruction set: epilogues of a projection.
#pragma once

#include "projection.h"

namespace irecgan::cpu {
namespace {

// Sum of exp(logits[i] - shift) over a block; a single item's is exactly 1.
inline float exact_block_sum(const float* logits, float shift) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < kBlock; ++i) sum += exp_fast(logits[i] - shift);
  return sum;
}

inline void log_prob_block(const Projection& p, const float* hidden, int64_t begin, int64_t end, int64_t block,
                           BlockStats<float> stats, const int64_t* targets, float* target_logits, float* panel) {
  const int64_t blocks = block_count(p.items);
  project_rows(p, hidden, begin, end, block, panel, [&](int64_t row, const float* logits) {
    const float shift = shift_of(max_of(logits, kBlock));
    stats.shift[row * blocks + block] = shift;
    stats.sum[row * blocks + block] = exact_block_sum(logits, shift);
    if (targets[row] / kBlock == block) target_logits[row] = logits[targets[row] % kBlock];
  });
}

// In double: the blocks of a large catalogue must not add their rounding.
inline double log_sum_exp(int64_t blocks, BlockStats<float> stats) {
  float largest = -kInfinity;
#pragma omp simd reduction(max : largest)
  for (int64_t b = 0; b < blocks; ++b) {
    // Empty blocks have a shift of 0 that says nothing.
    const float shift = stats.sum[b] > 0 ? stats.shift[b] : -kInfinity;
    largest = shift > largest ? shift : largest;
  }
  const float reference = shift_of(largest);
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t b = 0; b < blocks; ++b) {
    const double weight = static_cast<double>(stats.sum[b]) *
                          exp_fast(static_cast<double>(stats.shift[b]) - static_cast<double>(reference));
    sum += stats.sum[b] == 0 ? 0.0 : weight;
  }
  if (sum == 0) return -static_cast<double>(kInfinity);
  return sum > 0 ? static_cast<double>(reference) + log_fast(sum) : static_cast<double>(__builtin_nanf(""));
}

// entries [n] = -scale exp(logits - log_sum_exp). Returns the largest magnitude. The logarithm is double since its
// rounding to float would be a relative error of every entry.
inline float softmax_gradient(const float* logits, int64_t n, double log_sum_exp, float scale, float* entries) {
  const float high = static_cast<float>(log_sum_exp);
  const float low = static_cast<float>(log_sum_exp - high);
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const float p = exp_fast(logits[i] - high - low);
    largest = p > largest ? p : largest;
    entries[i] = -scale * p;
  }
  return largest * __builtin_fabsf(scale);
}

inline bool gradient_block(const Projection& p, const float* hidden, int64_t begin, int64_t end, int64_t block,
                           const LogitGradient& g, float* panel) {
  const int64_t first = block * kBlock;
  const int64_t present = first + kBlock <= p.items ? kBlock : p.items - first;
  bool counts = false;
  project_rows(p, hidden, begin, end, block, panel, [&](int64_t row, const float* logits) {
    float* entries = g.by_row + (row - begin) * g.items;
    float most = softmax_gradient(logits, present, g.log_sum_exp[row], g.grad[row], entries);
    if (g.targets[row] / kBlock == block) {
      float& entry = entries[g.targets[row] - first];
      entry += g.grad[row];
      most = __builtin_fmaxf(most, __builtin_fabsf(entry));
    }
    counts |= !(most < g.bound) || g.log_sum_exp[row] != g.log_sum_exp[row];
  });
  if (g.by_item != nullptr) transpose(g.by_row, g.items, end - begin, present, g.by_item, g.rows);
  return counts;
}

void sum_rows(const float* values, int64_t stride, int64_t rows, int64_t n, float* out, bool accumulate) {
  constexpr int64_t kColumns = 64;
  constexpr int64_t kGroup = 32;  // rows summed apart, so that rounding grows with the number of groups only
  for (int64_t first = 0; first < n; first += kColumns) {
    const int64_t width = first + kColumns <= n ? kColumns : n - first;
    float total[kColumns] = {};
    for (int64_t begin = 0; begin < rows; begin += kGroup) {
      const int64_t end = begin + kGroup <= rows ? begin + kGroup : rows;
      float part[kColumns] = {};
      for (int64_t r = begin; r < end; ++r) {
        const float* row = values + r * stride + first;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) part[i] += row[i];
      }
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) total[i] += part[i];
    }
    for (int64_t i = 0; i < width; ++i) out[first + i] = (accumulate ? out[first + i] : 0.0f) + total[i];
  }
}

}  // namespace
}  // namespace irecgan::cpu
