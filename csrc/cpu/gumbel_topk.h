// Block statistics and the race of one row (csrc/math/race.h), for one instruction set.
#pragma once

#include "../math/exp.h"
#include "../math/race.h"
#include "kernels.h"

namespace irecgan::cpu {
namespace {

constexpr float kInfinity = __builtin_inff();

// An opened block: what is left of it, relative to its largest logit when it was opened.
template <typename T>
struct Block {
  int64_t index = -1;
  T weights[kBlock];  // exp(l - max); 0 for drawn, absent and -inf items
  T max;
  T sum;  // of the weights
};

template <typename T>
inline T block_max(const T* x, int64_t n) {
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

template <typename T>
inline T sum_exp(const T* x, int64_t n, T max) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += exp_fast(x[i] - max);
  return sum;
}

template <typename T>
void block_stats(const T* logits, int64_t items, BlockStats<T> stats) {
  for (int64_t block = 0, first = 0; first < items; ++block, first += kBlock) {
    const T* x = logits + first;
    const T max = first + kBlock <= items ? block_max(x, kBlock) : block_max(x, items - first);
    // A block of -inf alone would give -inf - -inf; NaN hides from comparisons, so the sum is left to show it.
    const T shift = max == -static_cast<T>(kInfinity) ? T{0} : max;
    stats.max[block] = max;
    stats.sum[block] = first + kBlock <= items ? sum_exp(x, kBlock, shift) : sum_exp(x, items - first, shift);
  }
}

// A drawn item's logit becomes -inf by selection, never by arithmetic.
template <typename T>
inline void open_block(const T* logits, int64_t items, int64_t index, uint64_t taken, Block<T>& block) {
  const int64_t first = index * kBlock;
  const int64_t n = first + kBlock <= items ? kBlock : items - first;
  T left[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) left[i] = -static_cast<T>(kInfinity);
  for (int64_t i = 0; i < n; ++i) left[i] = (taken >> i & 1) ? -static_cast<T>(kInfinity) : logits[first + i];
  block.index = index;
  block.max = block_max(left, kBlock);
  const T shift = block.max == -static_cast<T>(kInfinity) ? T{0} : block.max;
  for (int64_t i = 0; i < kBlock; ++i) block.weights[i] = exp_fast(left[i] - shift);
  block.sum = sum_of(block.weights, kBlock);
}

// Takes an item out of an opened block. The rest is summed anew, since subtraction loses all precision once one item
// dominates; where little is left, the weights too are made anew, relative to the largest logit that remains.
template <typename T>
inline void take_item(const T* logits, int64_t items, int64_t item, uint64_t taken, Block<T>& block) {
  block.weights[item] = 0;
  block.sum = sum_of(block.weights, kBlock);
  if (block.sum < static_cast<T>(1e-3)) open_block(logits, items, block.index, taken, block);
}

// First item whose cumulated weight passes u of the total, in index order. Rounding can leave the target at the very
// end: then the last item with weight. Sums of eight first: independent chains, where a running sum would wait for
// itself.
template <typename T>
inline int64_t pick_item(const T* weights, double u) {
  constexpr int64_t kGroup = 8;
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

// Restore the order of arrivals[0..n) (earliest first) after arrivals[n - 1] was replaced: one insertion.
inline void insert_last(Arrival* arrivals, int64_t n) {
  const Arrival moved = arrivals[n - 1];
  int64_t at = n - 1;
  for (; at > 0 && arrivals[at - 1].log_time > moved.log_time; --at) arrivals[at] = arrivals[at - 1];
  arrivals[at] = moved;
}

// A lower bound of each block's first arrival, relative to a row maximum: -log1p(-u) >= u, so u / W needs no logarithm.
// The factor below one covers float rounding. Four counter words per pair of blocks; vectorised over pairs.
template <typename T>
void arrival_lower_bounds(int64_t blocks, BlockStats<T> stats, T row_max, const Stream& stream, float* bounds) {
  constexpr int64_t kChunk = 32;
  for (int64_t first = 0; first < blocks; first += kChunk) {
    float u[kChunk];
    for (int64_t pair = 0; pair < kChunk / 2; ++pair) {
      const Words w = draw(stream, Purpose::kArrival, static_cast<uint32_t>((first >> 1) + pair));
      u[2 * pair] = static_cast<float>(w.w[1]) * 0x1p-32f + static_cast<float>(w.w[0]) * 0x1p-64f;
      u[2 * pair + 1] = static_cast<float>(w.w[3]) * 0x1p-32f + static_cast<float>(w.w[2]) * 0x1p-64f;
    }
    const int64_t n = first + kChunk <= blocks ? kChunk : blocks - first;
    for (int64_t i = 0; i < n; ++i) {
      const float weight =
          static_cast<float>(stats.sum[first + i]) * exp_fast(static_cast<float>(stats.max[first + i] - row_max));
      bounds[first + i] = u[i] / weight * (1.0f - 1e-5f);
    }
  }
}

// The earliest first arrivals of the row's blocks, at most k, sorted. Returns how many there are, or kNotANumber.
template <typename T>
int64_t first_arrivals(int64_t blocks, int64_t k, BlockStats<T> stats, const Stream& stream, RaceScratch scratch) {
  const T row_max = block_max(stats.max, blocks);
  T check = row_max == -static_cast<T>(kInfinity) ? T{0} : row_max - row_max;  // +inf turns into NaN
  for (int64_t b = 0; b < blocks; ++b) check += stats.sum[b] - stats.sum[b];
  if (check != check) return kNotANumber;
  const bool bounded = blocks > k;
  if (bounded) arrival_lower_bounds(blocks, stats, row_max, stream, scratch.lower_bounds);
  int64_t count = 0;
  float limit = kInfinity;
  for (int64_t b = 0; b < blocks; ++b) {
    if (bounded && scratch.lower_bounds[b] > limit) continue;
    if (!(stats.sum[b] > 0)) continue;
    const double log_time =
        log(first_arrival(stream, b)) - (static_cast<double>(stats.max[b]) + log(static_cast<double>(stats.sum[b])));
    if (count == k && log_time >= scratch.arrivals[k - 1].log_time) continue;
    count += count < k;
    scratch.arrivals[count - 1] = Arrival{log_time, b, 0};
    insert_last(scratch.arrivals, count);
    if (count < k) continue;
    // A flushed weight (exp(-87) and below) makes a bound infinite although its arrival may come as early as
    // 2^-65 exp(87) / 64 > 1e16. Limits beyond that are not trusted: then every block is looked at.
    const double relative = exp(scratch.arrivals[k - 1].log_time + static_cast<double>(row_max));
    limit = relative < 1e16 ? static_cast<float>(relative) : kInfinity;
  }
  return count;
}

template <typename T>
int64_t race(const T* logits, int64_t items, int64_t k, BlockStats<T> stats, const Stream& stream, RaceScratch scratch,
             T* values, int64_t* indices) {
  int64_t waiting = first_arrivals(block_count(items), k, stats, stream, scratch);
  if (waiting == kNotANumber) return kNotANumber;
  Arrival* next = scratch.arrivals;
  Block<T> block;
  for (int64_t drawn = 0; drawn < k; ++drawn) {
    if (waiting == 0) return drawn;
    Arrival arrival = *next;
    const Pick pick = arrival_pick(stream, arrival.block, __builtin_popcountll(arrival.taken));
    if (block.index != arrival.block) open_block(logits, items, arrival.block, arrival.taken, block);
    const int64_t item = pick_item(block.weights, pick.item);
    values[drawn] = static_cast<T>(-arrival.log_time);
    indices[drawn] = arrival.block * kBlock + item;
    arrival.taken |= uint64_t{1} << item;
    take_item(logits, items, item, arrival.taken, block);
    // Later arrivals than the k - drawn - 1 earliest cannot be drawn any more, so the block competes for a place.
    const int64_t places = k - drawn - 1;
    ++next;
    --waiting;
    if (block.sum > 0 && places > 0) {
      const double gap = log(pick.gap) - static_cast<double>(block.max) - log(static_cast<double>(block.sum));
      arrival.log_time = log_add_exp(arrival.log_time, gap);
      --next;
      // next[0] is free: slide the earlier ones down, keeping the order.
      int64_t at = 0;
      for (; at < waiting && next[at + 1].log_time <= arrival.log_time; ++at) next[at] = next[at + 1];
      next[at] = arrival;
      ++waiting;
    }
    if (waiting > places) waiting = places;
  }
  return k;
}

}  // namespace
}  // namespace irecgan::cpu
