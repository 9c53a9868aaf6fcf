// Races of rows that are one block (C <= 64), eight at a time: a row's draws wait for each other, so the rows take
// turns and their draws overlap. Same draws as race(); rows that need its care are left to it.
#pragma once

#include "block.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kRows = kSmallRows;
constexpr int64_t kGroups = kBlock / kGroup;

// Work space of one batch of rows.
struct SmallRaces {
  float weights[kRows][kBlock];
  double groups[kRows][kGroups];  // their sums
  double item[kBlock][kRows];     // uniforms that choose
  double gap[kBlock][kRows];      // waits, standard exponential
  double total[kBlock][kRows];    // weight in the race when a draw is made
  double time[kBlock][kRows];     // arrivals, relative to exp(-shift)
  float shift[kRows];
  bool plain[kRows];  // false: left to race()
};

template <typename T>
inline double sum_of_group(const T* v) {
  double sum = 0;
  for (int64_t i = 0; i < kGroup; ++i) sum += static_cast<double>(v[i]);
  return sum;
}

#if defined(__AVX512F__)
inline void weigh_row(const float* logits, int64_t items, int64_t r, SmallRaces& s) {
  __m512 x[4];
  for (int i = 0; i < 4; ++i) {
    const int64_t present = items - 16 * i;
    const auto mask = static_cast<__mmask16>(present >= 16 ? 0xFFFF : present > 0 ? (1 << present) - 1 : 0);
    x[i] = _mm512_mask_loadu_ps(_mm512_set1_ps(-kInfinity), mask, logits + 16 * i);
  }
  s.shift[r] = shift_of(_mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]))));
  __m512d groups[kGroups];
  for (int i = 0; i < 4; ++i) {
    const __m512 weights = exp_weight_16(_mm512_sub_ps(x[i], _mm512_set1_ps(s.shift[r])));
    _mm512_storeu_ps(s.weights[r] + 16 * i, weights);
    groups[2 * i] = _mm512_cvtps_pd(_mm512_castps512_ps256(weights));
    groups[2 * i + 1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(weights, 1));
  }
  _mm512_storeu_pd(s.groups[r], fold_8(groups));
}
#else
inline void weigh_row(const float* logits, int64_t items, int64_t r, SmallRaces& s) {
  float x[kBlock];
  for (int64_t i = 0; i < items; ++i) x[i] = logits[i];
  for (int64_t i = items; i < kBlock; ++i) x[i] = -kInfinity;
  const float shift = shift_of(max_of(x, kBlock));
#pragma omp simd
  for (int64_t i = 0; i < kBlock; ++i) x[i] = exp_weight(x[i] - shift);
  std::memcpy(s.weights[r], x, sizeof x);
  s.shift[r] = shift;
  for (int64_t g = 0; g < kGroups; ++g) s.groups[r][g] = sum_of_group(x + g * kGroup);
}
#endif

// The uniforms of all draws and the waits before them: gap[0] before the first arrival, gap[j + 1] after the j-th.
inline void draw_rows(const Stream* streams, int64_t k, SmallRaces& s) {
  constexpr int64_t kPair = 2 * kRows;  // two draws' counters at a time
  uint32_t keys[4][kPair];
  for (int64_t l = 0; l < kPair; ++l) {
    const Words words = counter(streams[l % kRows], Purpose::kPick, 0);
    for (int w = 0; w < 4; ++w) keys[w][l] = words.w[w];
  }
  double* uniforms = &s.gap[0][0];
  for (int64_t j = -1; j < k; j += 2) {
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
    double first[kPair], second[kPair];
#pragma omp simd
    for (int64_t l = 0; l < kPair; ++l) {
      first[l] = uniform(c[0][l], c[1][l]);
      second[l] = uniform(c[2][l], c[3][l]);
    }
    constexpr size_t kBytes = kRows * sizeof(double);
    if (j < 0) {
      std::memcpy(uniforms, first, kBytes);
    } else {
      std::memcpy(s.item[j], first, kBytes);
      if (j + 1 < k) std::memcpy(uniforms + (j + 1) * kRows, second, kBytes);
    }
    if (j + 1 < k) std::memcpy(s.item[j + 1], first + kRows, kBytes);
    if (j + 2 < k) std::memcpy(uniforms + (j + 2) * kRows, second + kRows, kBytes);
  }
#pragma omp simd
  for (int64_t i = 0; i < k * kRows; ++i) uniforms[i] = exponential_fast(uniforms[i]);
}

// Place of `target` among the running sums of a group that begin at `before`, which becomes the sum in front of that
// place; kGroup if the target lies behind them all.
template <typename T>
inline int64_t place_in_group(const T* v, double target, double& before) {
  double sums[kGroup + 1];
  sums[0] = before;
  for (int64_t i = 0; i < kGroup; ++i) sums[i + 1] = sums[i] + static_cast<double>(v[i]);
  int64_t place = 0;
  for (int64_t i = 1; i <= kGroup; ++i) place += sums[i] <= target ? 1 : 0;
  before = sums[place];
  return place;
}

// Draw `j` of row `r`: the group first, then the item in it.
inline int64_t pick_in_row(int64_t r, int64_t j, SmallRaces& s) {
  double* groups = s.groups[r];
#if defined(__AVX512F__)
  const __m512d group_sums = prefix_8(_mm512_loadu_pd(groups));
  const __m512d all = spread_lane(group_sums, 7);
  const __m512d target = _mm512_mul_pd(_mm512_set1_pd(s.item[j][r]), all);
  int64_t group = passed_8(group_sums, target);
  group = group < kGroups ? group : kGroups - 1;
  float* weights = s.weights[r] + group * kGroup;
  const __m512d before = spread_lane(lanes_up<1>(group_sums), group);
  const __m512d items = _mm512_cvtps_pd(_mm256_loadu_ps(weights));
  const int64_t place = passed_8(_mm512_add_pd(prefix_8(items), before), target);
  const double total = _mm512_cvtsd_f64(all);
#else
  const double total = sum_of_group(groups);
  const double target = s.item[j][r] * total;
  double before = 0;
  int64_t group = place_in_group(groups, target, before);
  group = group < kGroups ? group : kGroups - 1;
  float* weights = s.weights[r] + group * kGroup;
  const int64_t place = place_in_group(weights, target, before);
#endif
  const int64_t inside = place % kGroup;
  // Rounding left the target at the very end of a group, or on an item without weight: a rare row for race(). So is one
  // where little is left, which must be weighed anew, or NaN.
  s.plain[r] = s.plain[r] && place < kGroup && weights[inside] > 0 && total >= 1e-3;
  s.total[j][r] = total;
  weights[inside] = 0;
#if defined(__AVX512F__)
  groups[group] = _mm512_reduce_add_pd(_mm512_maskz_mov_pd(static_cast<__mmask8>(~(1u << inside)), items));
#else
  groups[group] = sum_of_group(weights);
#endif
  return group * kGroup + inside;
}

// Rows r < count of `logits` race with streams of one seed; values [count][k] and indices [count][k] of the rows with
// plain[r] are written. items <= 64, k <= items, 1 <= count <= kRows.
inline void small_races(const float* const* logits, int64_t count, int64_t items, int64_t k, const Stream* streams,
                        float* const* values, int64_t* const* indices, bool* plain) {
  SmallRaces s;
  const float* rows[kRows];
  Stream keyed[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    rows[r] = logits[r < count ? r : 0];
    keyed[r] = streams[r < count ? r : 0];
    s.plain[r] = true;
  }
  for (int64_t r = 0; r < kRows; ++r) weigh_row(rows[r], items, r, s);
  draw_rows(keyed, k, s);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t r = 0; r < count; ++r) indices[r][j] = pick_in_row(r, j, s);
  }
  for (int64_t j = 0; j < k; ++j) {
#pragma omp simd
    for (int64_t r = 0; r < kRows; ++r) s.time[j][r] = (j == 0 ? 0.0 : s.time[j - 1][r]) + s.gap[j][r] / s.total[j][r];
  }
  double* times = &s.time[0][0];
#pragma omp simd
  for (int64_t i = 0; i < k * kRows; ++i) times[i] = -log_fast(times[i]);
  for (int64_t r = 0; r < count; ++r) {
    plain[r] = s.plain[r];
    for (int64_t j = 0; j < k; ++j) values[r][j] = static_cast<float>(s.time[j][r] + static_cast<double>(s.shift[r]));
  }
}

}  // namespace
}  // namespace irecgan::cpu
