// What AVX-512 does in fewer instructions than the compiler finds in the portable loops.
#pragma once

#if defined(__AVX512F__)

// GCC takes the undefined operand inside its own intrinsics for an uninitialised variable of ours.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

#include "../math/exp.h"
#include "../math/philox.h"

namespace irecgan::cpu {
namespace {

// Floats ahead of a pass over memory that are fetched for it: processors' own prefetching ends with each page of 4 KB.
constexpr int64_t kReadAhead = 2048;

// exp_weight (math/exp.h) with the same error bound, for x of either sign: 2^y is the minimax polynomial of degree 5 at
// y - floor(y), scaled. Beyond a float's range 0 or infinity; NaN stays NaN.
inline __m512 exp_weight_16(__m512 x) {
  constexpr int kAboveFloor = 0x09;  // y - floor(y), no exceptions
  const __m512 y = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
  const __m512 f = _mm512_reduce_ps(y, kAboveFloor);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.877576675e-3f), f, _mm512_set1_ps(8.989340091e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.582631805e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.401536170e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931530732e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.999999251e-1f));
  return _mm512_scalef_ps(p, y);
}

// Sum of 16 lanes by halves.
inline float fold_lanes(const float* lanes) { return _mm512_reduce_add_ps(_mm512_loadu_ps(lanes)); }

// Largest of a block's 64 logits, and the sum of exp(l - shift), where shift is that or 0 if all are -inf.
inline void exact_block_stats(const float* x, float* shift, float* sum) {
  const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
  const __m512 c = _mm512_loadu_ps(x + 32), d = _mm512_loadu_ps(x + 48);
  const float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
  *shift = max == -__builtin_inff() ? 0.0f : max;
  const __m512 s = _mm512_set1_ps(*shift);
  const __m512 ab = _mm512_add_ps(exp_weight_16(_mm512_sub_ps(a, s)), exp_weight_16(_mm512_sub_ps(b, s)));
  const __m512 cd = _mm512_add_ps(exp_weight_16(_mm512_sub_ps(c, s)), exp_weight_16(_mm512_sub_ps(d, s)));
  *sum = _mm512_reduce_add_ps(_mm512_add_ps(ab, cd));
}

// The sums of 16 vectors' lanes at once: a fold alone has more shuffles than sums, and each waits for the one before.
inline __m512 fold_16(__m512 (&v)[16]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xEE));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD));
  // Quarter q of v[i], i < 4: what is left of vectors i, i + 8, i + 4 and i + 12, by q.
  __m512 pairs[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[i], v[i + 2]), _mm512_unpackhi_ps(v[i], v[i + 2]));
  const __m512 sums = _mm512_add_ps(_mm512_unpacklo_ps(pairs[0], pairs[1]), _mm512_unpackhi_ps(pairs[0], pairs[1]));
  // Lane 4 q + l holds vector (0, 8, 4, 12)[q] + l.
  return _mm512_shuffle_f32x4(sums, sums, _MM_SHUFFLE(3, 1, 2, 0));
}

// guessed_sums (block.h) of up to 16 blocks, whose sums must be between `least` and `most`. Not inlined: its constants
// need their registers.
__attribute__((noinline)) bool guessed_sums_of_blocks(const float* x, int64_t blocks, float guess, float least,
                                                      float most, float* sums) {
  __m512 lanes[16];
  __m512i highest = _mm512_setzero_si512();
  const auto bound = [&](const float* items) {
    const __m512 y = _mm512_sub_ps(_mm512_loadu_ps(items), _mm512_set1_ps(guess));
    const __m512 fixed = _mm512_fmadd_ps(y, _mm512_set1_ps(WeightBound::kScale), _mm512_set1_ps(WeightBound::kOne));
    const __m512i bits = _mm512_castps_si512(_mm512_max_ps(_mm512_set1_ps(WeightBound::kZero), fixed));  // keeps NaN
    highest = _mm512_max_epu32(highest, bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, WeightBound::kShift));
  };
  for (int64_t b = blocks; b < 16; ++b) lanes[b] = _mm512_setzero_ps();
#pragma GCC unroll 1
  for (int64_t b = 0; b < blocks; ++b) {
    const float* block = x + b * 64;
    for (int64_t l = 0; l < 64; l += 16) __builtin_prefetch(block + kReadAhead + l);
    const __m512 low = _mm512_add_ps(bound(block), bound(block + 16));
    lanes[b] = _mm512_add_ps(low, _mm512_add_ps(bound(block + 32), bound(block + 48)));
  }
  const __m512 folded = fold_16(lanes);
  const auto present = static_cast<__mmask16>((1u << blocks) - 1u);
  _mm512_mask_storeu_ps(sums, present, folded);
  const __mmask16 above = _mm512_mask_cmp_ps_mask(present, folded, _mm512_set1_ps(least), _CMP_GT_OQ);
  const __mmask16 between = _mm512_mask_cmp_ps_mask(above, folded, _mm512_set1_ps(most), _CMP_LT_OQ);
  const __mmask16 too_high = _mm512_cmpge_epu32_mask(highest, _mm512_set1_epi32(WeightBound::kTooHigh));
  return between == present && too_high == 0;
}

// Appends first + i of the 16 values[i] below `limit` to found[0..count), in order; writes up to 16 entries. Returns
// the new count.
inline int64_t append_below_16(const float* values, float limit, int64_t first, int64_t* found, int64_t count) {
  const __mmask16 below = _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(limit), _CMP_LT_OQ);
  const __m512i low = _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  const auto low_below = static_cast<__mmask8>(below), high_below = static_cast<__mmask8>(below >> 8);
  _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi64(low_below, low));
  count += __builtin_popcount(low_below);
  const __m512i high = _mm512_add_epi64(low, _mm512_set1_epi64(8));
  _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi64(high_below, high));
  return count + __builtin_popcount(high_below);
}

// philox4x32_10 (math/philox.h) of 16 counters, word w of each in c[w].
inline void philox4x32_10(__m512i (&c)[4], uint32_t k0, uint32_t k1) {
  // Even and odd counters in 64-bit lanes, whose upper halves may hold anything until the end.
  constexpr int kXor3 = 0x96;
  __m512i even[4], odd[4];
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) {
    even[w] = c[w];
    odd[w] = _mm512_srli_epi64(even[w], 32);
  }
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  __m512i key0 = _mm512_set1_epi32(static_cast<int>(k0)), key1 = _mm512_set1_epi32(static_cast<int>(k1));
  const __m512i step0 = _mm512_set1_epi32(static_cast<int>(0x9E3779B9)),
                step1 = _mm512_set1_epi32(static_cast<int>(0xBB67AE85));
  const auto round = [&](__m512i(&x)[4]) {
    const __m512i p0 = _mm512_mul_epu32(x[0], m0), p1 = _mm512_mul_epu32(x[2], m1);
    x[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), x[1], key0, kXor3);
    x[1] = p1;
    x[2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), x[3], key1, kXor3);
    x[3] = p0;
  };
#pragma GCC unroll 10
  for (int i = 0; i < 10; ++i) {
    round(even);
    round(odd);
    key0 = _mm512_add_epi32(key0, step0);
    key1 = _mm512_add_epi32(key1, step1);
  }
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) c[w] = _mm512_mask_blend_epi32(0xAAAA, even[w], _mm512_slli_epi64(odd[w], 32));
}

inline void philox4x32_10(uint32_t (&c)[4][16], uint32_t k0, uint32_t k1) {
  __m512i words[4];
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) words[w] = _mm512_loadu_si512(c[w]);
  philox4x32_10(words, k0, k1);
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) _mm512_storeu_si512(c[w], words[w]);
}

// The uniforms of 32 blocks' first arrivals, in single precision; base: the counter of the first two.
inline void block_uniforms(const Words& base, uint32_t k0, uint32_t k1, __m512 (&u)[2]) {
  __m512i words[4];
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) words[w] = _mm512_set1_epi32(static_cast<int>(base.w[w]));
  words[0] = _mm512_add_epi32(words[0], _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  philox4x32_10(words, k0, k1);
  const auto uniform = [&](__m512i low, __m512i high) {
    return _mm512_fmadd_ps(_mm512_cvtepu32_ps(high), _mm512_set1_ps(0x1p-32f),
                           _mm512_mul_ps(_mm512_cvtepu32_ps(low), _mm512_set1_ps(0x1p-64f)));
  };
  const __m512 even = uniform(words[0], words[1]), odd = uniform(words[2], words[3]);
  const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  u[0] = _mm512_permutex2var_ps(even, lower, odd);
  u[1] = _mm512_permutex2var_ps(even, _mm512_add_epi32(lower, _mm512_set1_epi32(8)), odd);
}

// v moved up by kBy lanes, with zeros below.
template <int kBy>
inline __m512d lanes_up(__m512d v) {
  return _mm512_castsi512_pd(_mm512_alignr_epi64(_mm512_castpd_si512(v), _mm512_setzero_si512(), 8 - kBy));
}

// Running sums of 8 lanes.
inline __m512d prefix_8(__m512d v) {
  v = _mm512_add_pd(v, lanes_up<1>(v));
  v = _mm512_add_pd(v, lanes_up<2>(v));
  return _mm512_add_pd(v, lanes_up<4>(v));
}

// The last lanes of 8 vectors.
inline __m512d last_of_8(const __m512d (&v)[8]) {
  __m512d pairs[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) pairs[i] = _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]);
  // The last quarter of pairs[i]: the last lanes of vectors 2 i and 2 i + 1.
  __m512d quads[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) quads[i] = _mm512_shuffle_f64x2(pairs[2 * i], pairs[2 * i + 1], 0xFF);
  return _mm512_shuffle_f64x2(quads[0], quads[1], 0x88);
}

// Lane `lane` of v, everywhere.
inline __m512d spread_lane(__m512d v, int64_t lane) { return _mm512_permutexvar_pd(_mm512_set1_epi64(lane), v); }

// How many of 8 running sums are at most `target`.
inline int64_t passed_8(__m512d sums, __m512d target) {
  return __builtin_popcount(_mm512_cmp_pd_mask(sums, target, _CMP_LE_OQ));
}

inline int64_t passed_8(const double* sums, double target) {
  return passed_8(_mm512_loadu_pd(sums), _mm512_set1_pd(target));
}

// Takes `weight` from the sums at and behind `place`.
inline void lower_8(double* sums, int64_t place, double weight) {
  const __m512d before = _mm512_loadu_pd(sums);
  const auto behind = static_cast<__mmask8>(0xFF << place);
  _mm512_storeu_pd(sums, _mm512_mask_sub_pd(before, behind, before, _mm512_set1_pd(weight)));
}

}  // namespace
}  // namespace irecgan::cpu

#endif
