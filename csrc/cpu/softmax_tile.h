// Softmax statistics and gradients of rows of a tile of logits, for one instruction set.
#pragma once

#include <cstdint>

#include "../math/exp.h"

namespace irecgan::cpu {
namespace {

void row_stats(const float* logits, const float* bias, int64_t n, float* max, float* sum) {
  float largest = -__builtin_inff();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const float logit = logits[i] + bias[i];
    largest = logit > largest ? logit : largest;
  }
  // A row of -inf alone would give -inf - -inf.
  const float shift = largest == -__builtin_inff() ? 0.0f : largest;
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += exp_fast(logits[i] + bias[i] - shift);
  *max = largest;
  *sum = total;
}

float softmax_gradient(float* logits, const float* bias, int64_t n, double log_sum_exp, float scale) {
  const float high = static_cast<float>(log_sum_exp);
  const float low = static_cast<float>(log_sum_exp - high);
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const float p = exp_fast(logits[i] + bias[i] - high - low);
    largest = p > largest ? p : largest;
    logits[i] = -scale * p;
  }
  return largest * (scale < 0 ? -scale : scale);
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
