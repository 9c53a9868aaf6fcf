// Upper bounds of the blocks' weights from their centroids, and the candidate arrivals at the bounds' rates; for one
// instruction set.
#pragma once

#include "catalogue.h"
#include "gumbel_topk.h"
#include "packed_linear.h"

namespace irecgan::cpu {
namespace {

// out [kTileRows, kBlock] = the rows' products with a panel, and `bias`. A number is the same whatever the rows beside.
inline void multiply_panel(int64_t count, const float* const* rows, int64_t width, const float* panel,
                           const float* bias, float* out) {
  for (int64_t i = 0; i < kBlock; i += kPanel) {
    tile_of<kBlock>(count, rows, width, panel + i, bias + i, out + i, kBlock);
  }
}

inline double norm_of(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return __builtin_sqrt(sum);
}

// |(h - centre) metric|. scratch [2 H].
inline double reach_of(const Catalogue& c, const float* hidden, double* scratch) {
  double* difference = scratch;
  double* image = scratch + c.width;
  for (int64_t h = 0; h < c.width; ++h) {
    difference[h] = static_cast<double>(hidden[h]) - (c.centre == nullptr ? 0.0 : static_cast<double>(c.centre[h]));
    image[h] = c.metric == nullptr ? difference[h] : 0.0;
  }
  for (int64_t j = 0; c.metric != nullptr && j < c.width; ++j) {
#pragma omp simd
    for (int64_t h = 0; h < c.width; ++h) image[h] += difference[j] * c.metric[j * c.width + h];
  }
  double sum = 0;
  for (int64_t h = 0; h < c.width; ++h) sum += image[h] * image[h];
  return __builtin_sqrt(sum);
}

// Rates of one row's blocks from their exponents x = h . centroid + log_weight, which are in bounds.rate. Returns the
// shift, NaN if the row holds a number that is not finite.
//
// The weighted mean of y_i = g . (w_i - centroid) over a block is 0, its variance at most v = spread a^2, and y_i <= a
// = reach radius. Of all such y the mean of exp(y) is largest for two values, a and -v / a (Bennett, 1962): G = (q
// exp(a) + exp(-q a)) / (1 + q), q = spread; here with exp(-q a) <= 1 / (1 + q a). The margin covers what float32 may
// lose in h . w_i, in h . centroid and in the exponentials of both.
inline double block_rates(const Catalogue& c, const float* hidden, double reach, const BlockBounds& bounds) {
  const double rounding = (static_cast<double>(c.width) + 8) * 0x1p-22;
  const double slack =
      rounding * (static_cast<double>(c.bias_scale) + norm_of(hidden, c.width) * static_cast<double>(c.weight_scale));
  const float far = static_cast<float>(reach * (1 + 1e-6));
  float top = -kInfinity;
#pragma omp simd reduction(max : top)
  for (int64_t b = 0; b < c.blocks; ++b) {
    const float x = bounds.rate[b] + far * c.radius[b];
    top = x > top ? x : top;
  }
  if (!(reach + slack < 1e30) || !(top > -1e30f) || !(top < 1e30f)) return __builtin_nan("");
  constexpr float kMargin = 1.0f + 6e-5f;
  constexpr float kLeast = -80.0f;  // below, exp flushes to 0; a bound may be larger than it has to be
#pragma omp simd
  for (int64_t b = 0; b < c.blocks; ++b) {
    const float x = bounds.rate[b] - top;
    const float a = far * c.radius[b];
    const float q = c.spread[b];
    const float high = x + a < kLeast ? kLeast : x + a;
    const float low = x < kLeast ? kLeast : x;
    bounds.rate[b] = kMargin * (q * exp_weight(high) + exp_weight(low) / (1.0f + q * a)) / (1.0f + q);
  }
  return static_cast<double>(top) + slack;
}

// Bounds of `count` rows; shifts [count]. scratch [2 H].
inline void bound_blocks(const Catalogue& c, const CatalogueRow* rows, int64_t count, const BlockBounds* bounds,
                         double* shifts, double* scratch) {
  float products[kTileRows * kBlock];
  for (int64_t first = 0; first < count; first += kTileRows) {
    const int64_t n = count - first < kTileRows ? count - first : kTileRows;
    const float* hidden[kTileRows];
    for (int64_t r = 0; r < n; ++r) hidden[r] = rows[first + r].hidden;
    for (int64_t b = 0; b < c.blocks; b += kBlock) {
      multiply_panel(n, hidden, c.width, c.centroids + b * c.width, c.log_weight + b, products);
      const int64_t present = c.blocks - b < kBlock ? c.blocks - b : kBlock;
      for (int64_t r = 0; r < n; ++r) {
        std::memcpy(bounds[first + r].rate + b, products + r * kBlock, static_cast<size_t>(present) * sizeof(float));
      }
    }
  }
  for (int64_t r = 0; r < count; ++r) {
    const BlockBounds& mine = bounds[r];
    shifts[r] = block_rates(c, rows[r].hidden, reach_of(c, rows[r].hidden, scratch), mine);
    if (shifts[r] != shifts[r]) continue;
    float* zeros = mine.scratch;
    for (int64_t b = 0; b < c.blocks; ++b) zeros[b] = 0;
    arrival_lower_bounds(c.blocks, BlockStats<float>{zeros, mine.rate}, 0.0f, rows[r].stream, mine.earliest,
                         mine.scratch + c.blocks);
  }
}

// A time as the lower bounds of candidates are compared with it, relative to exp(row_shift); infinite if it is far out.
inline float relative_limit(double log_time, double row_shift) {
  const double x = log_time + row_shift;
  return x < 69.0 ? static_cast<float>(exp_fast(x)) * (1.0f + 1e-5f) : kInfinity;
}

// Indices of the m smallest values that are not infinite. Returns how many there are. smallest [m] scratch.
inline int64_t find_smallest(const float* values, int64_t n, int64_t m, float* smallest, int64_t* found) {
  constexpr int64_t kStep = kLanes<float>;
  int64_t count = 0;
  float limit = kInfinity;
  for (int64_t first = 0; first < n; first += kStep) {
    const int64_t end = first + kStep < n ? first + kStep : n;
    float least = kInfinity;
#pragma omp simd reduction(min : least)
    for (int64_t i = first; i < end; ++i) least = values[i] < least ? values[i] : least;
    if (!(least < limit)) continue;
    for (int64_t i = first; i < end; ++i) {
      const float value = values[i];
      if (!(value < limit)) continue;
      int64_t at = count < m ? count++ : m - 1;
      for (; at > 0 && smallest[at - 1] > value; --at) {
        smallest[at] = smallest[at - 1];
        found[at] = found[at - 1];
      }
      smallest[at] = value;
      found[at] = i;
      if (count == m) limit = smallest[m - 1];
    }
  }
  return count;
}

}  // namespace
}  // namespace irecgan::cpu
