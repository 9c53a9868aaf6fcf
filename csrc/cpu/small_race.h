// Races of rows that are one block (C <= 64), eight at a time: a row's draws wait for each other, so rows fill the
// vector lanes. Same draws as race(); rows that need its care are left to it.
#pragma once

#include "block.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kRows = kSmallRows;
constexpr int64_t kGroups = kBlock / kGroup;

// Work space of one batch of rows: [..][kRows] with the row innermost.
struct SmallRaces {
  float weights[kBlock][kRows];
  double groups[kGroups][kRows];
  double item[kBlock][kRows];  // uniforms that choose
  double gap[kBlock][kRows];   // waits, standard exponential
  double time[kBlock][kRows];  // arrivals, relative to exp(-shift)
  float shift[kRows];
  bool plain[kRows];  // false: left to race()
};

inline void weigh_rows(const float* const* logits, int64_t items, SmallRaces& s) {
  for (int64_t r = 0; r < kRows; ++r) {
    float x[kBlock];
    for (int64_t i = 0; i < items; ++i) x[i] = logits[r][i];
    for (int64_t i = items; i < kBlock; ++i) x[i] = -kInfinity;
    s.shift[r] = shift_of(max_of(x, kBlock));
#pragma omp simd
    for (int64_t i = 0; i < kBlock; ++i) x[i] = exp_weight(x[i] - s.shift[r]);
    for (int64_t i = 0; i < kBlock; ++i) s.weights[i][r] = x[i];
  }
  for (int64_t g = 0; g < kGroups; ++g) {
    for (int64_t r = 0; r < kRows; ++r) s.groups[g][r] = 0;
    for (int64_t i = 0; i < kGroup; ++i) {
#pragma omp simd
      for (int64_t r = 0; r < kRows; ++r) s.groups[g][r] += static_cast<double>(s.weights[g * kGroup + i][r]);
    }
  }
}

// The uniforms of all draws and the waits before them: gap[0] before the first arrival, gap[j + 1] after the j-th.
inline void draw_rows(const Stream* streams, int64_t k, SmallRaces& s) {
  double* uniforms = &s.gap[0][0];
  for (int64_t j = -1; j < k; j += 2) {
    uint32_t c[4][2 * kRows];
    for (int64_t l = 0; l < 2 * kRows; ++l) {
      const int64_t draw_index = j + l / kRows;
      const Stream& stream = streams[l % kRows];
      const Words words = draw_index < 0 ? counter(stream, Purpose::kArrival, 0)
                                         : counter(stream, Purpose::kPick, static_cast<uint32_t>(draw_index) << 24);
      for (int w = 0; w < 4; ++w) c[w][l] = words.w[w];
    }
    philox4x32_10(c, static_cast<uint32_t>(streams[0].seed), static_cast<uint32_t>(streams[0].seed >> 32));
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t at = j + half;
      if (at >= k) break;
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t l = half * kRows + r;
        const double first = uniform(c[0][l], c[1][l]);
        if (at >= 0) s.item[at][r] = first;
        if (at + 1 < k) uniforms[(at + 1) * kRows + r] = at < 0 ? first : uniform(c[2][l], c[3][l]);
      }
    }
  }
#pragma omp simd
  for (int64_t i = 0; i < k * kRows; ++i) uniforms[i] = exponential_fast(uniforms[i]);
}

// One draw of every row: groups first, then the items of the group that the target falls into.
inline void pick_rows(int64_t draw_index, int64_t* indices, SmallRaces& s) {
  double target[kRows], before[kRows], total[kRows];
  int32_t at[kRows];
  for (int64_t r = 0; r < kRows; ++r) total[r] = 0;
  for (int64_t g = 0; g < kGroups; ++g) {
#pragma omp simd
    for (int64_t r = 0; r < kRows; ++r) total[r] += s.groups[g][r];
  }
#pragma omp simd
  for (int64_t r = 0; r < kRows; ++r) {
    target[r] = s.item[draw_index][r] * total[r];
    before[r] = 0;
    at[r] = 0;
  }
  double cumulated[kRows] = {};
  for (int64_t g = 0; g < kGroups; ++g) {
#pragma omp simd
    for (int64_t r = 0; r < kRows; ++r) {
      cumulated[r] += s.groups[g][r];
      const bool passed = cumulated[r] <= target[r];
      before[r] = passed ? cumulated[r] : before[r];
      at[r] += passed ? 1 : 0;
    }
  }
  double rest[kRows];  // of the group, without the item
  int32_t inside[kRows];
#pragma omp simd
  for (int64_t r = 0; r < kRows; ++r) {
    at[r] = (at[r] < kGroups ? at[r] : static_cast<int32_t>(kGroups) - 1) * static_cast<int32_t>(kGroup);
    inside[r] = 0;
  }
  const float* weights = &s.weights[0][0];
  for (int32_t i = 0; i < kGroup; ++i) {
#pragma omp simd
    for (int32_t r = 0; r < kRows; ++r) {
      before[r] += static_cast<double>(weights[(at[r] + i) * static_cast<int32_t>(kRows) + r]);
      inside[r] += before[r] <= target[r] ? 1 : 0;
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    // Rounding left the target at the very end of a group, or on an item without weight: a rare row for race().
    const bool found = inside[r] < kGroup && s.weights[at[r] + (inside[r] % kGroup)][r] > 0;
    s.plain[r] = s.plain[r] && found;
    const int64_t item = at[r] + (inside[r] % kGroup);
    indices[r] = item;
    s.weights[item][r] = 0;
  }
  for (int64_t r = 0; r < kRows; ++r) rest[r] = 0;
  for (int32_t i = 0; i < kGroup; ++i) {
#pragma omp simd
    for (int32_t r = 0; r < kRows; ++r) {
      rest[r] += static_cast<double>(weights[(at[r] + i) * static_cast<int32_t>(kRows) + r]);
    }
  }
  for (int64_t r = 0; r < kRows; ++r) s.groups[at[r] / kGroup][r] = rest[r];
  for (int64_t r = 0; r < kRows; ++r) {
    // What is left of little must be weighed anew, which race() does; so must NaN be found.
    s.plain[r] = s.plain[r] && total[r] >= 1e-3;
    const double previous = draw_index == 0 ? 0.0 : s.time[draw_index - 1][r];
    s.time[draw_index][r] = previous + s.gap[draw_index][r] / total[r];
  }
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
  weigh_rows(rows, items, s);
  draw_rows(keyed, k, s);
  int64_t drawn[kRows];
  for (int64_t j = 0; j < k; ++j) {
    pick_rows(j, drawn, s);
    for (int64_t r = 0; r < count; ++r) indices[r][j] = drawn[r];
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
