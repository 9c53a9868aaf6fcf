// Blocks of 64 items: their statistics, and one that is opened to draw from it. For one instruction set.
#pragma once

#include <cstring>

#include "../math/exp.h"
#include "../math/race.h"
#include "avx512.h"
#include "kernels.h"

namespace irecgan::cpu {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr int64_t kGroup = 8;  // items that a pick skips at a time

template <typename T>
constexpr int64_t kLanes = 64 / sizeof(T);

// Sum of one vector's lanes as a tree. A reduction clause would add them one after the other, in order.
template <typename T>
inline T fold(T* lanes) {
#pragma GCC unroll 4
  for (int64_t half = kLanes<T> / 2; half > 0; half /= 2) {
#pragma omp simd
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

#if defined(__AVX512F__)
template <>
inline float fold(float* lanes) {
  return fold_lanes(lanes);
}
#endif

template <typename T>
inline T max_of(const T* x, int64_t n) {
  T max = -static_cast<T>(kInfinity);
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

template <typename T>
inline T sum_of(const T* x, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// Sum of a block's weights.
template <typename T>
inline T block_total(const T* weights) {
  T lanes[kLanes<T>] = {};
  for (int64_t i = 0; i < kBlock; i += kLanes<T>) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes<T>; ++l) lanes[l] += weights[i + l];
  }
  return fold(lanes);
}

// Shift of items whose largest logit is `max`. Items of -inf alone would give -inf - -inf; NaN hides from comparisons,
// so the sum is left to show it.
template <typename T>
inline T shift_of(T max) {
  return max == -static_cast<T>(kInfinity) ? T{0} : max;
}

// Sums of a block's weights by lane.
template <typename T>
inline void add_lanes(const T* x, T shift, T* lanes) {
#pragma omp simd
  for (int64_t l = 0; l < kLanes<T>; ++l) lanes[l] = exp_weight(x[l] - shift);
#pragma GCC unroll 8
  for (int64_t i = kLanes<T>; i < kBlock; i += kLanes<T>) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes<T>; ++l) lanes[l] += exp_weight(x[i + l] - shift);
  }
}

template <typename T>
inline T block_sum(const T* x, T shift) {
  T lanes[kLanes<T>];
  add_lanes(x, shift, lanes);
  return fold(lanes);
}

#if !defined(__AVX512F__)
inline void exact_block_stats(const float* x, float* shift, float* sum) {
  *shift = shift_of(max_of(x, kBlock));
  *sum = block_sum(x, *shift);
}
#endif

constexpr int64_t kChunk = 16;            // blocks whose logits stay in the first-level cache between two passes
constexpr int64_t kSegment = 4 * kChunk;  // blocks that share a guess of their shift

constexpr float kLeastSum = 0x1p-12f, kMostSum = 0x1p12f;  // of a block, where its shift is a guess

// Sums of upper bounds (WeightBound) of the weights of `blocks` <= kChunk blocks, relative to a guessed shift, which
// saves the pass for the largest logit. False if the guess is so far off that a weight could lose precision, or a logit
// is NaN or +inf, or there is no such bound.
template <typename T>
inline bool guessed_sums(const T*, int64_t, T, T*) {
  return false;
}

template <>
inline bool guessed_sums(const float* x, int64_t blocks, float guess, float* sums) {
#if defined(__AVX512F__)
  return guessed_sums_of_blocks(x, blocks, guess, kLeastSum, kMostSum, sums);
#else
  constexpr int64_t kWide = kLanes<float>;
  uint32_t highest[kWide] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    float lanes[kWide] = {};
#pragma GCC unroll 4
    for (int64_t i = b * kBlock; i < (b + 1) * kBlock; i += kWide) {
#pragma omp simd
      for (int64_t l = 0; l < kWide; ++l) {
        const uint32_t bits = weight_bound_bits(x[i + l] - guess);
        highest[l] = bits > highest[l] ? bits : highest[l];
        lanes[l] += weight_bound(bits);
      }
    }
    sums[b] = fold(lanes);
  }
  int kept = 1;
  for (int64_t l = 0; l < kWide; ++l) kept &= highest[l] < WeightBound::kTooHigh ? 1 : 0;
  for (int64_t b = 0; b < blocks; ++b) kept &= sums[b] > kLeastSum && sums[b] < kMostSum ? 1 : 0;
  return kept != 0;
#endif
}

// Statistics of `blocks` <= kChunk whole blocks. They share one shift: the guess, or their largest logit.
template <typename T>
inline void rough_chunk_stats(const T* x, int64_t blocks, T guess, T* shifts, T* sums) {
  if (guessed_sums(x, blocks, guess, sums)) {
    for (int64_t b = 0; b < blocks; ++b) shifts[b] = guess;
    return;
  }
  T lanes[kLanes<T>];
  for (int64_t l = 0; l < kLanes<T>; ++l) lanes[l] = x[l];
  for (int64_t i = kLanes<T>; i < blocks * kBlock; i += kLanes<T>) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes<T>; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  }
  const T shift = shift_of(max_of(lanes, kLanes<T>));
  for (int64_t b = 0; b < blocks; ++b) shifts[b] = shift;
  for (int64_t b = 0; b < blocks; ++b) sums[b] = block_sum(x + b * kBlock, shift);
  for (int64_t b = 0; b < blocks; ++b) {
    if (!(sums[b] < static_cast<T>(1e-25))) continue;
    // Too far below its neighbours for their shift.
    shifts[b] = shift_of(max_of(x + b * kBlock, kBlock));
    sums[b] = block_sum(x + b * kBlock, shifts[b]);
  }
}

template <typename T>
void rough_stats(const T* logits, int64_t items, BlockStats<T> stats) {
  const int64_t whole = items / kBlock;
  T guess = 0;
  for (int64_t b = 0; b < whole; b += kChunk) {
    if (b % kSegment == 0) guess = shift_of(max_of(logits + b * kBlock, kBlock));
    rough_chunk_stats(logits + b * kBlock, b + kChunk <= whole ? kChunk : whole - b, guess, stats.shift + b,
                      stats.sum + b);
  }
  if (whole * kBlock == items) return;
  T tail[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) tail[i] = -static_cast<T>(kInfinity);
  for (int64_t i = whole * kBlock; i < items; ++i) tail[i - whole * kBlock] = logits[i];
  rough_chunk_stats(tail, 1, guess, stats.shift + whole, stats.sum + whole);
}

// An opened block: what is left of it, relative to its largest logit when it was opened.
template <typename T>
struct Block {
  int64_t index = -1;
  T weights[kBlock];  // relative to `shift`; 0 for drawn, absent and -inf items
  T shift;
  T sum;  // of the weights
};

// A block's weight: `sum`, relative to `shift`.
template <typename T>
struct BlockWeight {
  T shift, sum;
};

// A row's logits in memory, as the source of its blocks. Their statistics are rough_stats.
template <typename T>
struct Row {
  static constexpr float kExcess = WeightBound::kExcess;

  const T* logits;
  int64_t items;

  // Logits of block `index`, absent items -inf.
  void read(int64_t index, T* left) const {
    const int64_t first = index * kBlock;
    if (first + kBlock <= items) {
      std::memcpy(left, logits + first, kBlock * sizeof(T));
      return;
    }
    const int64_t n = items - first;
    for (int64_t i = 0; i < n; ++i) left[i] = logits[first + i];
    for (int64_t i = n; i < kBlock; ++i) left[i] = -static_cast<T>(kInfinity);
  }

  BlockWeight<T> weigh(int64_t index, BlockStats<T>) const {
    T left[kBlock];
    read(index, left);
    const T shift = shift_of(max_of(left, kBlock));
    return {shift, block_sum(left, shift)};
  }
};

// A drawn item's logit becomes -inf by selection, never by arithmetic.
template <typename T, typename Source>
inline void open_block(const Source& source, int64_t index, uint64_t taken, Block<T>& block) {
  T left[kBlock];
  source.read(index, left);
  for (uint64_t rest = taken; rest != 0; rest &= rest - 1) {
    left[__builtin_ctzll(rest)] = -static_cast<T>(kInfinity);
  }
  block.index = index;
  block.shift = shift_of(max_of(left, kBlock));
#pragma omp simd
  for (int64_t i = 0; i < kBlock; ++i) block.weights[i] = exp_weight(left[i] - block.shift);
  block.sum = block_total(block.weights);
}

// Takes an item out of an opened block. The rest is summed anew, since subtraction loses all precision once one item
// dominates; where little is left, the weights too are made anew, relative to the largest logit that remains.
template <typename T, typename Source>
inline void take_item(const Source& source, int64_t item, uint64_t taken, Block<T>& block) {
  block.weights[item] = 0;
  block.sum = block_total(block.weights);
  if (block.sum < static_cast<T>(1e-3)) open_block(source, block.index, taken, block);
}

// First item whose cumulated weight passes u of the total, in index order. Rounding can leave the target at the very
// end: then the last item with weight. Groups first: independent sums, where a running sum would wait for itself.
template <typename T>
inline int64_t pick_item(const T* weights, double u) {
  double groups[kBlock / kGroup];
  double total = 0;
  for (int64_t g = 0; g < kBlock / kGroup; ++g) {
    double sum = 0;
    for (int64_t i = 0; i < kGroup; ++i) sum += weights[g * kGroup + i];
    groups[g] = sum;
    total += sum;
  }
  const double target = u * total;
  double cumulated = 0;
  int64_t last = 0;
  for (int64_t g = 0; g < kBlock / kGroup; ++g) {
    if (!(groups[g] > 0)) continue;
    if (cumulated + groups[g] <= target) {
      cumulated += groups[g];
      last = g;
      continue;
    }
    double inside = cumulated;
    for (int64_t i = g * kGroup; i < (g + 1) * kGroup; ++i) {
      inside += weights[i];
      if (inside > target) return i;
    }
    cumulated += groups[g];
    last = g;
  }
  int64_t item = last * kGroup;
  for (int64_t i = item; i < (last + 1) * kGroup; ++i) item = weights[i] > 0 ? i : item;
  return item;
}

}  // namespace
}  // namespace irecgan::cpu
