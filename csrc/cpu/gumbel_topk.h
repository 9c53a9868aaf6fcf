// The race of one row (csrc/math/race.h), for one instruction set.
#pragma once

#include "block.h"

namespace irecgan::cpu {
namespace {

// Restore the order of arrivals[0..n) (earliest first) after arrivals[n - 1] was replaced: one insertion.
inline void insert_last(Arrival* arrivals, int64_t n) {
  const Arrival moved = arrivals[n - 1];
  int64_t at = n - 1;
  for (; at > 0 && arrivals[at - 1].log_time > moved.log_time; --at) arrivals[at] = arrivals[at - 1];
  arrivals[at] = moved;
}

#if !defined(__AVX512F__)
inline int64_t append_below_16(const float* values, float limit, int64_t first, int64_t* found, int64_t count) {
  int below = 0;
#pragma omp simd reduction(+ : below)
  for (int64_t i = 0; i < 16; ++i) below += values[i] < limit ? 1 : 0;
  if (below == 0) return count;
  for (int64_t i = 0; i < 16; ++i) {
    found[count] = first + i;
    count += values[i] < limit;
  }
  return count;
}
#endif

// Indices of the values below `limit`, in order. Returns how many.
inline int64_t find_below(const float* values, int64_t n, float limit, int64_t* found) {
  int64_t count = 0, first = 0;
  for (; first + 16 <= n; first += 16) count = append_below_16(values + first, limit, first, found, count);
  for (; first < n; ++first) {
    found[count] = first;
    count += values[first] < limit;
  }
  return count;
}

constexpr float kRoundingBelow = 1.0f - 1e-4f;

// u [32]: the uniforms of the first arrivals of blocks first.. first + 31, in single precision.
inline void block_uniforms(const Stream& stream, int64_t first, float* u) {
  constexpr uint32_t kCounters = 16;
  const Words base = counter(stream, Purpose::kArrival, static_cast<uint32_t>(first >> 1));
  uint32_t words[4][kCounters];
  for (uint32_t i = 0; i < kCounters; ++i) {
    words[0][i] = base.w[0] + i;
    for (int w = 1; w < 4; ++w) words[w][i] = base.w[w];
  }
  philox4x32_10(words, static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32));
  float even[kCounters], odd[kCounters];
#pragma omp simd
  for (uint32_t i = 0; i < kCounters; ++i) {
    even[i] = static_cast<float>(words[1][i]) * 0x1p-32f + static_cast<float>(words[0][i]) * 0x1p-64f;
    odd[i] = static_cast<float>(words[3][i]) * 0x1p-32f + static_cast<float>(words[2][i]) * 0x1p-64f;
  }
  for (uint32_t i = 0; i < kCounters; ++i) {
    u[2 * i] = even[i];
    u[2 * i + 1] = odd[i];
  }
}

// Lower bounds of the blocks' first arrivals relative to the row's largest shift: -log(1 - u) >= u, so u / W needs no
// logarithm. kRoundingBelow covers rounding, also that of WeightBound. uniforms [blocks] are kept for the upper
// bounds. Returns the weight of all blocks.
template <typename T>
inline float arrival_lower_bounds(int64_t blocks, BlockStats<T> stats, T row_max, const Stream& stream, float* bounds,
                                  float* uniforms) {
  constexpr int64_t kBatch = 32;
  float total = 0;
  for (int64_t first = 0; first < blocks; first += kBatch) {
    float u[kBatch];
    block_uniforms(stream, first, u);
    const int64_t n = first + kBatch <= blocks ? kBatch : blocks - first;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) {
      const float weight =
          static_cast<float>(stats.sum[first + i]) * exp_weight(static_cast<float>(stats.shift[first + i] - row_max));
      total += weight;
      uniforms[first + i] = u[i];
      bounds[first + i] = u[i] / weight * kRoundingBelow;
    }
  }
  return total;
}

#if defined(__AVX512F__)
template <>
inline float arrival_lower_bounds(int64_t blocks, BlockStats<float> stats, float row_max, const Stream& stream,
                                  float* bounds, float* uniforms) {
  __m512 total = _mm512_setzero_ps();
  for (int64_t first = 0; first < blocks; first += 32) {
    __m512 u[2];
    block_uniforms(counter(stream, Purpose::kArrival, static_cast<uint32_t>(first >> 1)),
                   static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32), u);
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t at = first + 16 * half, left = blocks - at;
      const auto present = static_cast<__mmask16>(left >= 16 ? 0xFFFFu : left > 0 ? (1u << left) - 1u : 0u);
      const __m512 shift = _mm512_maskz_loadu_ps(present, stats.shift + at);
      const __m512 weight = _mm512_mul_ps(_mm512_maskz_loadu_ps(present, stats.sum + at),
                                          exp_weight_16(_mm512_sub_ps(shift, _mm512_set1_ps(row_max))));
      total = _mm512_mask_add_ps(total, present, total, weight);
      const __m512 bound = _mm512_mul_ps(_mm512_div_ps(u[half], weight), _mm512_set1_ps(kRoundingBelow));
      _mm512_mask_storeu_ps(uniforms + at, present, u[half]);
      _mm512_mask_storeu_ps(bounds + at, present, bound);
    }
  }
  return _mm512_reduce_add_ps(total);
}
#endif

// A time, relative to row_max, by which at least k blocks have arrived: as many of their upper bounds, u / (1 - u) / W,
// lie before it, even if the bounds' weights are too large by a share of `excess`. Infinite if there is no such time,
// or none that can be trusted.
inline float arrival_limit(int64_t blocks, int64_t k, float excess, float weight, const float* bounds,
                           const float* uniforms) {
  const float slack = (1.0f + excess) * (1.0f + 3e-4f);
  const auto wanted = static_cast<float>(k);
  // By t some W t blocks have arrived, give or take the root of that; fewer where few blocks have most of the weight.
  float limit = (wanted + __builtin_sqrtf(wanted) + 1.0f) * (1.0f + excess) / weight;
  // A flushed weight (exp(-87) and below) makes a bound infinite although its arrival may come as early as
  // 2^-65 exp(87) / 64 > 1e16. Limits beyond that are not trusted: then every block is looked at.
  for (; limit < 1e16f; limit *= 1.5f) {
    int arrived = 0;
#pragma omp simd reduction(+ : arrived)
    for (int64_t b = 0; b < blocks; ++b) arrived += bounds[b] * slack <= limit * (1.0f - uniforms[b]) ? 1 : 0;
    if (arrived >= k) return limit;
  }
  return kInfinity;
}

constexpr int64_t kTogether = 16;  // first arrivals computed at a time

// Exact first arrivals of up to kTogether blocks, kept in arrivals[0..count), the k earliest so far. Returns the new
// count.
template <typename T, typename Source>
int64_t keep_earliest(const Source& source, const int64_t* candidates, int64_t n, BlockStats<T> stats,
                      const Stream& stream, Arrival* arrivals, int64_t count, int64_t k) {
  uint32_t words[4][kTogether];
  for (int64_t i = 0; i < kTogether; ++i) {
    const Words base = counter(stream, Purpose::kArrival, static_cast<uint32_t>(candidates[i < n ? i : 0] >> 1));
    for (int w = 0; w < 4; ++w) words[w][i] = base.w[w];
  }
  philox4x32_10(words, static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32));
  double log_times[kTogether], sums[kTogether], shifts[kTogether];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t block = candidates[i];
    const int low = block & 1 ? 2 : 0;
    log_times[i] = uniform(words[low][i], words[low + 1][i]);
    const BlockWeight<T> weight = source.weigh(block, stats);
    sums[i] = static_cast<double>(weight.sum);
    shifts[i] = static_cast<double>(weight.shift);
  }
  for (int64_t i = n; i < kTogether; ++i) log_times[i] = 0.5, sums[i] = 1;
#pragma omp simd
  for (int64_t i = 0; i < kTogether; ++i) log_times[i] = log_fast(exponential_fast(log_times[i]) / sums[i]);
  for (int64_t i = 0; i < n; ++i) {
    const double log_time = log_times[i] - shifts[i];
    if (count == k && log_time >= arrivals[k - 1].log_time) continue;
    count += count < k;
    arrivals[count - 1] = Arrival{log_time, candidates[i], 0};
    insert_last(arrivals, count);
  }
  return count;
}

// The earliest first arrivals of the row's blocks, at most k, sorted. Returns how many there are, or kNotANumber. The
// sums in `stats` only choose the blocks that can be among them, and may be too large by a share of Source::kExcess.
template <typename T, typename Source>
int64_t first_arrivals(const Source& source, int64_t blocks, int64_t k, BlockStats<T> stats, const Stream& stream,
                       RaceScratch scratch) {
  const T row_max = max_of(stats.shift, blocks);
  T check = 0;
#pragma omp simd reduction(+ : check)
  for (int64_t b = 0; b < blocks; ++b) check += stats.sum[b] - stats.sum[b];
  if (check != check) return kNotANumber;
  float limit = kInfinity;
  if (blocks > k) {
    const float weight = arrival_lower_bounds(blocks, stats, row_max, stream, scratch.lower_bounds, scratch.uniforms);
    limit = arrival_limit(blocks, k, Source::kExcess, weight, scratch.lower_bounds, scratch.uniforms);
  }
  int64_t candidates = 0;
  if (limit < kInfinity) {
    candidates = find_below(scratch.lower_bounds, blocks, limit, scratch.candidates);
  } else {
    for (int64_t b = 0; b < blocks; ++b) {
      if (stats.sum[b] > 0) scratch.candidates[candidates++] = b;
    }
  }
  int64_t count = 0;
  for (int64_t first = 0; first < candidates; first += kTogether) {
    const int64_t n = first + kTogether <= candidates ? kTogether : candidates - first;
    count = keep_earliest(source, scratch.candidates + first, n, stats, stream, scratch.arrivals, count, k);
  }
  return count;
}

// Whether a block whose last arrival was at log_time cannot come again before `limit`: even its shortest possible wait,
// u over all the weight that it had, ends later. Spares the logarithms and the block's new sum.
template <typename T>
inline bool too_late(double log_time, double gap, const Block<T>& block, double limit) {
  const double wait = gap / static_cast<double>(block.sum) * exp_fast(-static_cast<double>(block.shift) - limit);
  return exp_fast(log_time - limit) + wait > 1.0 + 1e-5;
}

// The race whose first arrivals, `waiting` of them, are known. Returns as race does.
template <typename T, typename Source>
int64_t race_from(const Source& source, int64_t waiting, int64_t k, const Stream& stream, Arrival* arrivals, T* values,
                  int64_t* indices) {
  Arrival* next = arrivals;
  Block<T> block;
  for (int64_t drawn = 0; drawn < k; ++drawn) {
    if (waiting == 0) return drawn;
    Arrival arrival = *next;
    const Pick pick = arrival_pick(stream, arrival.block, __builtin_popcountll(arrival.taken));
    if (block.index != arrival.block) open_block(source, arrival.block, arrival.taken, block);
    const int64_t item = pick_item(block.weights, pick.item);
    values[drawn] = static_cast<T>(-arrival.log_time);
    indices[drawn] = arrival.block * kBlock + item;
    arrival.taken |= uint64_t{1} << item;
    // Later arrivals than the k - drawn - 1 earliest cannot be drawn any more, so the block competes for a place.
    const int64_t places = k - drawn - 1;
    ++next;
    --waiting;
    if (places == 0) return k;
    if (waiting >= places && too_late(arrival.log_time, pick.gap, block, next[places - 1].log_time)) {
      block.index = -1;
      continue;
    }
    take_item(source, item, arrival.taken, block);
    if (block.sum > 0) {
      const double gap =
          log_fast(exponential_fast(pick.gap) / static_cast<double>(block.sum)) - static_cast<double>(block.shift);
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

template <typename T, typename Source>
int64_t race(const Source& source, int64_t items, int64_t k, BlockStats<T> stats, const Stream& stream,
             RaceScratch scratch, T* values, int64_t* indices) {
  const int64_t waiting = first_arrivals(source, block_count(items), k, stats, stream, scratch);
  if (waiting == kNotANumber) return kNotANumber;
  return race_from(source, waiting, k, stream, scratch.arrivals, values, indices);
}

}  // namespace
}  // namespace irecgan::cpu
