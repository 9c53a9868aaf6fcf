// A session's click among its slate and END, and D's score of it, for one instruction set.
#pragma once

#include "../math/exp.h"
#include "block.h"
#include "kernels.h"

namespace irecgan::cpu {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Softmax weights (unnormalised, relative to the largest logit) of the slate and END into inputs.weights; PAD weighs 0.
void candidate_weights(const ClickInputs& in, float inverse_temperature) {
  float max = -kInfinity;
  for (int64_t j = 0; j <= in.slate_size; ++j) {
    const int64_t row = j < in.slate_size ? in.slate[j] : in.end;
    const float logit =
        row < 0 ? -kInfinity : dot(in.query, in.embedding + row * in.width, in.width) * inverse_temperature;
    in.weights[j] = logit;
    max = logit > max ? logit : max;
  }
  for (int64_t j = 0; j <= in.slate_size; ++j) in.weights[j] = exp_fast(in.weights[j] - max);
}

void candidate_weights(const ScoredSlate& in, float inverse_temperature) {
  const int64_t k = in.slate_size;
  for (int64_t j = 0; j < k; ++j) in.weights[j] = in.logits[in.slate[j]] * inverse_temperature;
  in.weights[k] = in.logits[in.end] * inverse_temperature;
  const float max = max_of(in.weights, k + 1);
#pragma omp simd
  for (int64_t j = 0; j <= k; ++j) in.weights[j] = exp_fast(in.weights[j] - max);
}

int64_t pick_candidate(const float* weights, int64_t slate_size, double u) {
  const double total = sum_of(weights, slate_size + 1);
  if (!(total < kInfinity)) return kNotANumber;
  const double target = u * total;
  double cumulated = 0;
  int64_t last = slate_size;
  for (int64_t j = 0; j <= slate_size; ++j) {
    cumulated += weights[j];
    if (cumulated > target) return j;
    if (weights[j] > 0) last = j;
  }
  return last;
}

#if defined(__AVX512F__)
constexpr int64_t kFewCandidates = 16;  // of a slate and END: one vector

// Rows of the candidates, END last; lanes that are not `present` hold 0.
inline __m512i candidate_rows(const ScoredSlate& in, __mmask16 present) {
  const auto items = static_cast<uint32_t>(present) >> 1;  // END is one of the present
  const __m512i low = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(items), in.slate);
  const __m512i high = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(items >> 8), in.slate + 8);
  const __m512i rows =
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low)), _mm512_cvtepi64_epi32(high), 1);
  return _mm512_mask_set1_epi32(rows, static_cast<__mmask16>(items + 1), static_cast<int>(in.end));
}

// table[rows] of a table of n entries: from registers where they hold it, since a gather is some eighty operations.
inline __m512 look_up(const float* table, int64_t n, __m512i rows, __mmask16 present) {
  if (n > 64) return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), present, rows, table, 4);
  __m512 part[4];
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t left = n - 16 * i;
    const uint32_t filled = left >= 16 ? 0xFFFFu : left > 0 ? (1u << left) - 1u : 0u;
    part[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(filled), table + 16 * i);
  }
  const __m512 low = _mm512_permutex2var_ps(part[0], rows, part[1]);
  const __m512 high = _mm512_permutex2var_ps(part[2], rows, part[3]);
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(rows, _mm512_set1_epi32(32)), low, high);
}

// The candidates as lanes, in order.
struct CandidateLanes {
  __mmask16 present;
  __m512i rows;
  __m512 weights;
};

inline CandidateLanes candidate_lanes(const ScoredSlate& in, float inverse_temperature) {
  CandidateLanes lanes;
  lanes.present = static_cast<__mmask16>((2u << in.slate_size) - 1u);
  lanes.rows = candidate_rows(in, lanes.present);
  const __m512 logits =
      _mm512_mul_ps(look_up(in.logits, in.end + 1, lanes.rows, lanes.present), _mm512_set1_ps(inverse_temperature));
  const __m512 all = _mm512_mask_blend_ps(lanes.present, _mm512_set1_ps(-kInfinity), logits);
  lanes.weights = exp_weight_16(_mm512_sub_ps(all, _mm512_set1_ps(_mm512_reduce_max_ps(all))));
  return lanes;
}

inline int64_t click_among_few(const ScoredSlate& in, double u) {
  const CandidateLanes lanes = candidate_lanes(in, 1.0f);
  const __m512d low = prefix_8(_mm512_cvtps_pd(_mm512_castps512_ps256(lanes.weights)));
  const __m512d high =
      _mm512_add_pd(prefix_8(_mm512_cvtps_pd(_mm512_extractf32x8_ps(lanes.weights, 1))), spread_lane(low, 7));
  const __m512d total = spread_lane(high, 7);
  if (!(_mm512_cvtsd_f64(total) < static_cast<double>(kInfinity))) return kNotANumber;
  const __m512d target = _mm512_mul_pd(total, _mm512_set1_pd(u));
  const int64_t choice = passed_8(low, target) + passed_8(high, target);
  if (choice <= in.slate_size) return choice;
  // Rounding left the target at the very end: the last candidate that has weight.
  const auto weighing = static_cast<uint32_t>(_mm512_cmp_ps_mask(lanes.weights, _mm512_setzero_ps(), _CMP_GT_OQ));
  return 31 - __builtin_clz(weighing);
}

inline float score_among_few(const ScoredSlate& in, const float* matches, float inverse_temperature) {
  const CandidateLanes lanes = candidate_lanes(in, inverse_temperature);
  const __m512 match = look_up(matches, in.end + 1, lanes.rows, lanes.present);
  const __m512 terms = _mm512_maskz_mul_ps(lanes.present, lanes.weights, match);
  return _mm512_reduce_add_ps(terms) / _mm512_reduce_add_ps(lanes.weights);
}
#endif

int64_t click(const ClickInputs& in, double u) {
  candidate_weights(in, 1.0f);
  return pick_candidate(in.weights, in.slate_size, u);
}

int64_t click_scored(const ScoredSlate& in, double u) {
#if defined(__AVX512F__)
  if (in.slate_size < kFewCandidates) return click_among_few(in, u);
#endif
  candidate_weights(in, 1.0f);
  return pick_candidate(in.weights, in.slate_size, u);
}

float step_score(const ClickInputs& in, int64_t clicked_row, float temperature, float* mean) {
  candidate_weights(in, 1.0f / temperature);
  for (int64_t e = 0; e < in.width; ++e) mean[e] = 0;
  float total = 0;
  for (int64_t j = 0; j <= in.slate_size; ++j) {
    const int64_t row = j < in.slate_size ? in.slate[j] : in.end;
    if (row < 0) continue;
    const float weight = in.weights[j];
    const float* item = in.embedding + row * in.width;
    total += weight;
#pragma omp simd
    for (int64_t e = 0; e < in.width; ++e) mean[e] += weight * item[e];
  }
  return dot(mean, in.embedding + clicked_row * in.width, in.width) / total;
}

float step_score_scored(const ScoredSlate& in, const float* matches, float temperature) {
#if defined(__AVX512F__)
  if (in.slate_size < kFewCandidates) return score_among_few(in, matches, 1.0f / temperature);
#endif
  candidate_weights(in, 1.0f / temperature);
  float total = in.weights[in.slate_size];
  float score = total * matches[in.end];
  for (int64_t j = 0; j < in.slate_size; ++j) {
    total += in.weights[j];
    score += in.weights[j] * matches[in.slate[j]];
  }
  return score / total;
}

}  // namespace
}  // namespace irecgan::cpu
