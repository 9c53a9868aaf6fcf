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

namespace irecgan::cpu {
namespace {

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

// Sums of the weights of 16 blocks of 64 items, relative to `shift`. Not inlined: its constants need their registers.
__attribute__((noinline)) void sums_of_16_blocks(const float* x, float shift, float* sums) {
  __m512 lanes[16];
  const __m512 from = _mm512_set1_ps(shift);
#pragma GCC unroll 1
  for (int64_t b = 0; b < 16; ++b) {
    const float* block = x + b * 64;
    __m512 sum = exp_weight_16(_mm512_sub_ps(_mm512_loadu_ps(block), from));
#pragma GCC unroll 3
    for (int64_t i = 16; i < 64; i += 16)
      sum = _mm512_add_ps(sum, exp_weight_16(_mm512_sub_ps(_mm512_loadu_ps(block + i), from)));
    lanes[b] = sum;
  }
  _mm512_storeu_ps(sums, fold_16(lanes));
}

// philox4x32_10 (math/philox.h) of 16 counters: even and odd ones in 64-bit lanes, whose upper halves may hold anything
// until the end.
inline void philox4x32_10(uint32_t (&c)[4][16], uint32_t k0, uint32_t k1) {
  constexpr int kXor3 = 0x96;
  __m512i even[4], odd[4];
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) {
    even[w] = _mm512_loadu_si512(c[w]);
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
  for (int w = 0; w < 4; ++w)
    _mm512_storeu_si512(c[w], _mm512_mask_blend_epi32(0xAAAA, even[w], _mm512_slli_epi64(odd[w], 32)));
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

// The sums of 8 vectors' lanes at once.
inline __m512d fold_8(const __m512d (&v)[8]) {
  __m512d pairs[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    pairs[i] = _mm512_add_pd(_mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]));
  // Quarter q of pairs[i]: parts of vectors 2 i and 2 i + 1.
  __m512d quads[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    quads[i] = _mm512_add_pd(_mm512_shuffle_f64x2(pairs[2 * i], pairs[2 * i + 1], 0x88),
                             _mm512_shuffle_f64x2(pairs[2 * i], pairs[2 * i + 1], 0xDD));
  return _mm512_add_pd(_mm512_shuffle_f64x2(quads[0], quads[1], 0x88), _mm512_shuffle_f64x2(quads[0], quads[1], 0xDD));
}

// Lane `lane` of v, everywhere.
inline __m512d spread_lane(__m512d v, int64_t lane) { return _mm512_permutexvar_pd(_mm512_set1_epi64(lane), v); }

// How many of the running sums, in ascending order, are at most `target`: 0..8.
inline int64_t passed_8(__m512d sums, __m512d target) {
  return __builtin_popcount(_mm512_cmp_pd_mask(sums, target, _CMP_LE_OQ));
}

}  // namespace
}  // namespace irecgan::cpu

#endif
