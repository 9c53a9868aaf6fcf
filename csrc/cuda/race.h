// A row's race (csrc/math/race.h), run by one warp on the first arrivals of the row's blocks.
#pragma once

#include "../math/exp.h"
#include "../math/race.h"
#include "logit_stats.h"
#include "noise_key.h"
#include "warp.h"

namespace irecgan::cuda {

__device__ __forceinline__ Stream row_stream(const NoiseKey& key, int64_t row) {
  const int64_t seed = key.device_seed == nullptr ? key.host_seed : *key.device_seed;
  return Stream{static_cast<uint64_t>(seed), key.rows[row], static_cast<uint32_t>(key.step), 0, 0};
}

// Log of the wait until the next arrival of what weighs W = sum exp(max): Exp(1) / W. +inf where nothing is left to
// arrive, since then sum = 0 and max = -inf.
template <typename T>
__device__ __forceinline__ double log_gap(double exponential, LogitStats<T> stats) {
  return log(exponential / static_cast<double>(stats.sum)) - static_cast<double>(stats.max);
}

// Statistics of a block's 64 items spread over kLanes neighbours, kBlock / kLanes each, absent ones -inf.
// NaN hides from the comparisons but not from the sum, and +inf turns into NaN there.
template <int kLanes, typename T>
__device__ __forceinline__ LogitStats<T> block_stats(const T (&x)[kBlock / kLanes]) {
  T max = x[0];
#pragma unroll
  for (int i = 1; i < kBlock / kLanes; ++i) max = x[i] > max ? x[i] : max;
  max = group_max<kLanes>(max);
  // A block of -inf alone would give -inf - -inf.
  const T shift = max == -static_cast<T>(kInfinity) ? T{0} : max;
  T sum = 0;
#pragma unroll
  for (int i = 0; i < kBlock / kLanes; ++i) sum += exp_fast(x[i] - shift);
  return LogitStats<T>{max, group_sum<kLanes>(sum)};
}

// First item whose cumulated weight passes u of the total, in index order. Rounding can leave the target at the very
// end: then the last item with weight.
template <typename T>
__device__ __forceinline__ int pick_item(const T (&x)[2], T max, double u, int lane) {
  const double w0 = exp_fast(x[0] - max), w1 = exp_fast(x[1] - max);
  const double through = inclusive_sum(w0 + w1, lane);
  const double target = u * __shfl_sync(kAllLanes, through, kWarp - 1);
  const unsigned passed = __ballot_sync(kAllLanes, w0 + w1 > 0 && through > target);
  const unsigned weighty = __ballot_sync(kAllLanes, w0 + w1 > 0);
  const int owner = passed != 0 ? __ffs(static_cast<int>(passed)) - 1 : 31 - __clz(static_cast<int>(weighty));
  const bool is_first = !(w1 > 0) || (passed != 0 && w0 > 0 && through - w1 > target);
  return 2 * owner + (__shfl_sync(kAllLanes, is_first ? 1 : 0, owner) ? 0 : 1);
}

// The earliest of the blocks that are congruent to `lane_of` modulo 32, looked for by all lanes.
__device__ __forceinline__ Arrival earliest_of_lane(const double* log_times, int64_t blocks, int lane_of, int lane) {
  Arrival best{static_cast<double>(kInfinity), INT32_MAX};
  for (int64_t b = lane_of + static_cast<int64_t>(lane) * kWarp; b < blocks; b += kWarp * kWarp)
    best = earlier(best, Arrival{log_times[b], static_cast<int32_t>(b)});
  return warp_earliest(best);
}

// A drawn item's logit becomes -inf by selection, never by arithmetic.
template <typename T>
__device__ __forceinline__ void take_out(uint64_t taken, int lane, T (&x)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) x[i] = taken >> (2 * lane + i) & 1 ? -static_cast<T>(kInfinity) : x[i];
}

template <typename T>
struct Race {
  int64_t blocks;
  int64_t k;
  double* log_times;  // [blocks] of the next arrivals; changed
  uint64_t* taken;    // [blocks] bit i: the block's item i was drawn; changed
  T* values;          // [k]
  int64_t* indices;   // [k]
  T* logits;          // [k] of the drawn items; null: not wanted
};

// A lane keeps the earliest arrival among the blocks congruent to it modulo 32. A draw changes one block, so only the
// lane that keeps it has its blocks read again, by the whole warp.
//
// source.load(block, lane, x) gives the lane the block's logits 2 lane and 2 lane + 1, so that a running sum over lanes
// is in index order; -inf for what may not be drawn.
//
// Returns the number of draws: fewer than k if the row has fewer finite logits, 0 if it holds NaN or +inf.
template <typename T, typename Source>
__device__ int64_t run_race(const Race<T>& race, const Stream& stream, const Source& source, int lane) {
  Arrival kept{static_cast<double>(kInfinity), INT32_MAX};
  bool faulty = false;
  for (int64_t b = lane; b < race.blocks; b += kWarp) {
    const double log_time = race.log_times[b];
    faulty = faulty || log_time != log_time;
    kept = earlier(kept, Arrival{log_time, static_cast<int32_t>(b)});
  }
  faulty = __any_sync(kAllLanes, faulty) != 0;

  int64_t drawn = 0;
  for (; drawn < race.k && !faulty; ++drawn) {
    const Arrival next = warp_earliest(kept);
    if (!(next.log_time < static_cast<double>(kInfinity))) break;
    uint64_t taken = race.taken[next.block];
    const Pick pick = arrival_pick(stream, next.block, __popcll(taken));
    T x[2];
    source.load(next.block, lane, x);
    take_out(taken, lane, x);
    const int item = pick_item(x, group_max<kWarp>(x[0] > x[1] ? x[0] : x[1]), pick.item, lane);
    taken |= uint64_t{1} << item;
    if (race.logits != nullptr && lane == item / 2) race.logits[drawn] = item % 2 == 0 ? x[0] : x[1];
    // What is left is summed anew: subtraction loses all precision once one item dominates.
#pragma unroll
    for (int i = 0; i < 2; ++i) x[i] = item == 2 * lane + i ? -static_cast<T>(kInfinity) : x[i];
    const double gap = log_gap(exponential_fast(pick.gap), block_stats<kWarp>(x));
    __syncwarp();  // every lane has read what is taken
    if (lane == 0) {
      race.values[drawn] = static_cast<T>(-next.log_time);
      race.indices[drawn] = static_cast<int64_t>(next.block) * kBlock + item;
      race.taken[next.block] = taken;
      race.log_times[next.block] =
          gap < static_cast<double>(kInfinity) ? log_add_exp(next.log_time, gap) : static_cast<double>(kInfinity);
    }
    __syncwarp();  // lane 0's writes are seen below
    const Arrival anew = earliest_of_lane(race.log_times, race.blocks, next.block % kWarp, lane);
    if (lane == next.block % kWarp) kept = anew;
  }
  const T nothing = static_cast<T>(faulty ? __builtin_nanf("") : -kInfinity);
  for (int64_t j = drawn + lane; j < race.k; j += kWarp) {
    race.values[j] = nothing;
    race.indices[j] = -1;
  }
  return drawn;
}

// Exact log-probability of the k items that a race drew, in order: sum_j (l_j - log(weight of all items but the first
// j)), the same in every lane. What is left after the slate is summed, the blocks that it came from anew without its
// items, and the slate's own weights are added from the last to the first: nothing is subtracted, so the result stays
// exact when one item dominates. stats [blocks]: of the row's logits.
template <typename T, typename Source>
__device__ double slate_log_prob(const Race<T>& race, const LogitStats<T>* stats, T shift, const Source& source,
                                 int lane) {
  double rest = 0;
  for (int64_t first = 0; first < race.blocks; first += kWarp) {
    const int64_t mine = first + lane;
    LogitStats<T> left = mine < race.blocks ? stats[mine] : LogitStats<T>{-static_cast<T>(kInfinity), 0};
    unsigned opened = __ballot_sync(kAllLanes, mine < race.blocks && race.taken[mine] != 0);
    for (; opened != 0; opened &= opened - 1) {
      const int owner = __ffs(static_cast<int>(opened)) - 1;
      const uint64_t taken = race.taken[first + owner];
      T x[2];
      source.load(first + owner, lane, x);
      take_out(taken, lane, x);
      const LogitStats<T> anew = block_stats<kWarp>(x);
      if (lane == owner) left = anew;
    }
    if (left.sum > 0) rest += static_cast<double>(left.sum) * exp_fast(static_cast<double>(left.max - shift));
  }
  rest = group_sum<kWarp>(rest);
  // Logarithms from here on: a slate's items may be too improbable for their weights beside the largest one's.
  bool any = rest > 0;
  double left = any ? log_fast(rest) : 0.0, log_prob = 0;
  for (int64_t j = race.k - 1; j >= 0; --j) {
    const double logit = static_cast<double>(race.logits[j] - shift);
    left = any ? log_add_exp(left, logit) : logit;
    any = true;
    log_prob += logit - left;
  }
  return log_prob;
}

}  // namespace irecgan::cuda
