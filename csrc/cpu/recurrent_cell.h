// One row of a recurrent layer's step, for one instruction set.
#pragma once

#include "avx512.h"

#if defined(__AVX512F__)
namespace irecgan {

// exp_gate (math/exp.h) of 16 lanes; cut only above, since 2^y of AVX-512 ends at 0 by itself. Ahead of the cells'
// templates, which look it up where they are defined.
static inline __attribute__((always_inline)) __m512 exp_gate(__m512 x) {
  // The operand that min returns beside NaN is its second.
  return cpu::exp_weight_16(_mm512_min_ps(_mm512_set1_ps(27.725887f), x));  // 40 ln 2
}

}  // namespace irecgan
#endif

#include "../math/gru_cell.h"
#include "../math/lstm_cell.h"

namespace irecgan::cpu {
namespace {

#if defined(__AVX512F__)
// Calls f(i, mask) for 16 lanes at a time, those of `mask` within the row.
template <typename F>
inline void for_lanes(int64_t hidden, const F& f) {
  const int64_t whole = hidden / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) f(i, static_cast<__mmask16>(0xFFFF));
  if (whole < hidden) f(whole, static_cast<__mmask16>((1u << (hidden - whole)) - 1u));
}

void gru_row(const float* gates, const float* recurrent, const float* state, float* next, int64_t hidden) {
  for_lanes(hidden, [&](int64_t i, __mmask16 mask) {
    const auto load = [&](const float* from) { return _mm512_maskz_loadu_ps(mask, from + i); };
    const __m512 unit = gru_unit(load(gates), load(gates + hidden), load(gates + 2 * hidden), load(recurrent),
                                 load(recurrent + hidden), load(recurrent + 2 * hidden), load(state));
    _mm512_mask_storeu_ps(next + i, mask, unit);
  });
}

void lstm_row(const float* gates, const float* recurrent, const float* cell, float* next, float* next_cell,
              int64_t hidden) {
  for_lanes(hidden, [&](int64_t i, __mmask16 mask) {
    const auto load = [&](const float* from) { return _mm512_maskz_loadu_ps(mask, from + i); };
    const auto gate = [&](int64_t g) { return load(gates + g * hidden) + load(recurrent + g * hidden); };
    const auto unit = lstm_unit(gate(0), gate(1), gate(2), gate(3), load(cell));
    _mm512_mask_storeu_ps(next + i, mask, unit.h);
    _mm512_mask_storeu_ps(next_cell + i, mask, unit.c);
  });
}
#else
void gru_row(const float* gates, const float* recurrent, const float* state, float* next, int64_t hidden) {
#pragma omp simd
  for (int64_t i = 0; i < hidden; ++i) {
    next[i] = gru_unit(gates[i], gates[hidden + i], gates[2 * hidden + i], recurrent[i], recurrent[hidden + i],
                       recurrent[2 * hidden + i], state[i]);
  }
}

void lstm_row(const float* gates, const float* recurrent, const float* cell, float* next, float* next_cell,
              int64_t hidden) {
#pragma omp simd
  for (int64_t i = 0; i < hidden; ++i) {
    const LstmUnit<float> unit = lstm_unit(gates[i] + recurrent[i], gates[hidden + i] + recurrent[hidden + i],
                                           gates[2 * hidden + i] + recurrent[2 * hidden + i],
                                           gates[3 * hidden + i] + recurrent[3 * hidden + i], cell[i]);
    next[i] = unit.h;
    next_cell[i] = unit.c;
  }
}
#endif

}  // namespace
}  // namespace irecgan::cpu
