// Races of rows that are one block (C <= 64), eight at a time: a row's draws wait for each other, so the rows take
// turns and their draws overlap. Same draws as race(); rows that need its care are left to it.
#pragma once

#include "block.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kRows = kSmallRows;
constexpr int64_t kGroups = kBlock / kGroup;

// Work space of one batch of rows. Running sums are doubles, from which a drawn item's weight is subtracted: its error,
// some 1e-15 of the weight at the start, stays small beside kLeast.
struct SmallRaces {
  alignas(64) double inside[kRows][kBlock];       // running sums of the weights of each group of kGroup items
  alignas(64) double groups[kRows][2 * kGroups];  // from kGroups on: running sums of the groups; a 0 in front of them
  float weights[kRows][kBlock];                   // 0 for drawn, absent and -inf items
  double item[kBlock][kRows];                     // uniforms that choose
  double gap[kBlock][kRows];                      // waits, standard exponential
  double total[kBlock][kRows];                    // weight in the race when a draw is made
  double time[kBlock][kRows];                     // arrivals, relative to exp(-shift)
  float taken[kBlock][kRows];  // drawn items' weights; 0 where rounding left the draw beyond its group
  float shift[kRows];
};

constexpr double kLeast = 1e-4;  // total weight below which a row is left to race()

#if defined(__AVX512F__)
inline void weigh_row(const float* logits, int64_t items, int64_t r, SmallRaces& s) {
  __m512 x[4];
  for (int i = 0; i < 4; ++i) {
    const int64_t present = items - 16 * i;
    const auto mask = static_cast<__mmask16>(present >= 16 ? 0xFFFF : present > 0 ? (1 << present) - 1 : 0);
    x[i] = _mm512_mask_loadu_ps(_mm512_set1_ps(-kInfinity), mask, logits + 16 * i);
  }
  s.shift[r] = shift_of(_mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]))));
  __m512d sums[kGroups];
  for (int i = 0; i < 4; ++i) {
    const __m512 weights = exp_weight_16(_mm512_sub_ps(x[i], _mm512_set1_ps(s.shift[r])));
    _mm512_storeu_ps(s.weights[r] + 16 * i, weights);
    sums[2 * i] = prefix_8(_mm512_cvtps_pd(_mm512_castps512_ps256(weights)));
    sums[2 * i + 1] = prefix_8(_mm512_cvtps_pd(_mm512_extractf32x8_ps(weights, 1)));
  }
  for (int g = 0; g < kGroups; ++g) _mm512_store_pd(s.inside[r] + g * kGroup, sums[g]);
  s.groups[r][kGroups - 1] = 0;
  _mm512_store_pd(s.groups[r] + kGroups, prefix_8(last_of_8(sums)));
}
#else
inline void running_sums(double* v) {
  for (int64_t i = 1; i < kGroup; ++i) v[i] += v[i - 1];
}

inline void weigh_row(const float* logits, int64_t items, int64_t r, SmallRaces& s) {
  float x[kBlock];
  for (int64_t i = 0; i < items; ++i) x[i] = logits[i];
  for (int64_t i = items; i < kBlock; ++i) x[i] = -kInfinity;
  const float shift = shift_of(max_of(x, kBlock));
#pragma omp simd
  for (int64_t i = 0; i < kBlock; ++i) x[i] = exp_weight(x[i] - shift);
  std::memcpy(s.weights[r], x, sizeof x);
  s.shift[r] = shift;
  double* inside = s.inside[r];
  for (int64_t i = 0; i < kBlock; ++i) inside[i] = static_cast<double>(x[i]);
  double* groups = s.groups[r] + kGroups;
  for (int64_t g = 0; g < kGroups; ++g) {
    running_sums(inside + g * kGroup);
    groups[g] = inside[(g + 1) * kGroup - 1];
  }
  groups[-1] = 0;
  running_sums(groups);
}

// How many of 8 running sums are at most `target`.
inline int64_t passed_8(const double* sums, double target) {
  int passed = 0;
#pragma omp simd reduction(+ : passed)
  for (int64_t i = 0; i < 8; ++i) passed += sums[i] <= target ? 1 : 0;
  return passed;
}

// Takes `weight` from the sums at and behind `place`.
inline void lower_8(double* sums, int64_t place, double weight) {
#pragma omp simd
  for (int64_t i = 0; i < 8; ++i) sums[i] -= i >= place ? weight : 0.0;
}
#endif

// The uniforms of all draws and, where their times are wanted, the waits before them: gap[0] before the first arrival,
// gap[j + 1] after the j-th.
template <bool kTimes>
inline void draw_rows(const Stream* streams, int64_t k, SmallRaces& s) {
  constexpr int64_t kPair = 2 * kRows;  // two draws' counters at a time
  uint32_t keys[4][kPair];
  for (int64_t l = 0; l < kPair; ++l) {
    const Words words = counter(streams[l % kRows], Purpose::kPick, 0);
    for (int w = 0; w < 4; ++w) keys[w][l] = words.w[w];
  }
  double* uniforms = &s.gap[0][0];
  for (int64_t j = kTimes ? -1 : 0; j < k; j += 2) {
    uint32_t c[4][kPair];
    std::memcpy(c, keys, sizeof c);
    for (int64_t l = 0; l < kPair; ++l) c[0][l] = static_cast<uint32_t>(j + l / kRows) << 24;
    if (j < 0) {
      for (int64_t r = 0; r < kRows; ++r) {
        const Words words = counter(streams[r], Purpose::kArrival, 0);
        for (int w = 0; w < 4; ++w) c[w][r] = words.w[w];
      }
    }
    philox4x32_10(c, static_cast<uint32_t>(streams[0].seed), static_cast<uint32_t>(streams[0].seed >> 32));
    double first[kPair];
#pragma omp simd
    for (int64_t l = 0; l < kPair; ++l) first[l] = uniform(c[0][l], c[1][l]);
    constexpr size_t kBytes = kRows * sizeof(double);
    std::memcpy(j < 0 ? uniforms : s.item[j], first, kBytes);
    if (j + 1 < k) std::memcpy(s.item[j + 1], first + kRows, kBytes);
    if constexpr (kTimes) {
      double second[kPair];
#pragma omp simd
      for (int64_t l = 0; l < kPair; ++l) second[l] = uniform(c[2][l], c[3][l]);
      if (j >= 0 && j + 1 < k) std::memcpy(uniforms + (j + 1) * kRows, second, kBytes);
      if (j + 2 < k) std::memcpy(uniforms + (j + 2) * kRows, second + kRows, kBytes);
    }
  }
  if constexpr (kTimes) {
#pragma omp simd
    for (int64_t i = 0; i < k * kRows; ++i) uniforms[i] = exponential_fast(uniforms[i]);
  }
}

// Draw `j` of row `r`: the group first, then the item in it.
inline int64_t pick_in_row(int64_t r, int64_t j, SmallRaces& s) {
  static_assert(kGroup == 8 && kGroups == 8);
  double* groups = s.groups[r] + kGroups;
  const double total = groups[kGroups - 1];
  const double target = s.item[j][r] * total;
  int64_t group = passed_8(groups, target);
  group = group < kGroups ? group : kGroups - 1;
  double* inside = s.inside[r] + group * kGroup;
  const int64_t place = passed_8(inside, target - groups[group - 1]);
  const int64_t item = group * kGroup + place % kGroup;
  const float weight = s.weights[r][item];
  s.taken[j][r] = place < kGroup ? weight : 0.0f;
  s.total[j][r] = total;
  s.weights[r][item] = 0;
  lower_8(inside, place, static_cast<double>(weight));
  lower_8(groups, group, static_cast<double>(weight));
  return item;
}

// values[r][j] of the rows r < count: -log of the j-th arrival.
inline void arrival_values(int64_t count, int64_t k, SmallRaces& s, float* const* values) {
  for (int64_t j = 0; j < k; ++j) {
#pragma omp simd
    for (int64_t r = 0; r < kRows; ++r) s.time[j][r] = (j == 0 ? 0.0 : s.time[j - 1][r]) + s.gap[j][r] / s.total[j][r];
  }
  double* times = &s.time[0][0];
#pragma omp simd
  for (int64_t i = 0; i < k * kRows; ++i) times[i] = -log_fast(times[i]);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t j = 0; j < k; ++j) values[r][j] = static_cast<float>(s.time[j][r] + static_cast<double>(s.shift[r]));
  }
}

// Rows r < count of `logits` race with streams of one seed; values [count][k], unless null, and indices [count][k] of
// the rows with plain[r] are written. items <= 64, k <= items, 1 <= count <= kRows.
inline void small_races(const float* const* logits, int64_t count, int64_t items, int64_t k, const Stream* streams,
                        float* const* values, int64_t* const* indices, bool* plain) {
  SmallRaces s;
  const float* rows[kRows];
  Stream keyed[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    rows[r] = logits[r < count ? r : 0];
    keyed[r] = streams[r < count ? r : 0];
  }
  for (int64_t r = 0; r < kRows; ++r) weigh_row(rows[r], items, r, s);
  values == nullptr ? draw_rows<false>(keyed, k, s) : draw_rows<true>(keyed, k, s);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t r = 0; r < count; ++r) indices[r][j] = pick_in_row(r, j, s);
  }
  if (values != nullptr) arrival_values(count, k, s, values);
  // Rounding left a target at the very end of a group, or on an item without weight: a rare row for race(). So is one
  // where little is left, which must be weighed anew, or NaN.
  int failed[kRows] = {};
  for (int64_t j = 0; j < k; ++j) {
#pragma omp simd
    for (int64_t r = 0; r < kRows; ++r) failed[r] |= s.taken[j][r] > 0 && s.total[j][r] >= kLeast ? 0 : 1;
  }
  for (int64_t r = 0; r < count; ++r) plain[r] = failed[r] == 0;
}

}  // namespace
}  // namespace irecgan::cpu
