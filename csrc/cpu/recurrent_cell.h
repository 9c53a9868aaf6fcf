// One row of a recurrent layer's step, for one instruction set.
#pragma once

#include "avx512.h"

#if defined(__AVX512F__)
namespace irecgan {

// Vectors of 16 lanes that take each operation together, as in exp_weights. Ahead of the cells' templates, which look
// these functions up where they are defined.
constexpr int kVectors = 4;
struct Lanes {
  __m512 v[kVectors];
};

template <typename F>
static inline __attribute__((always_inline)) Lanes each(const F& f) {
  Lanes to;
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) to.v[i] = f(i);
  return to;
}

#define IRECGAN_LANES static inline __attribute__((always_inline)) Lanes
IRECGAN_LANES operator+(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
IRECGAN_LANES operator-(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
IRECGAN_LANES operator*(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
IRECGAN_LANES operator/(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
IRECGAN_LANES operator+(float a, const Lanes& b) {
  return each([&](int i) { return a + b.v[i]; });
}
IRECGAN_LANES operator-(float a, const Lanes& b) {
  return each([&](int i) { return a - b.v[i]; });
}
IRECGAN_LANES operator*(float a, const Lanes& b) {
  return each([&](int i) { return a * b.v[i]; });
}
IRECGAN_LANES operator/(float a, const Lanes& b) {
  return each([&](int i) { return a / b.v[i]; });
}
IRECGAN_LANES operator-(const Lanes& a) {
  return each([&](int i) { return -a.v[i]; });
}

// exp_gate (math/exp.h), with the same error bound; cut only above, since 2^y of AVX-512 ends at 0 by itself.
IRECGAN_LANES exp_gate(const Lanes& x) {
  // The operand that min returns beside NaN is its second.
  Lanes y = each([&](int i) { return _mm512_min_ps(_mm512_set1_ps(27.725887f), x.v[i]); });  // 40 ln 2
  cpu::exp_weights(y.v);
  return y;
}
#undef IRECGAN_LANES

}  // namespace irecgan
#endif

#include "../math/gru_cell.h"
#include "../math/lstm_cell.h"

namespace irecgan::cpu {
namespace {

#if defined(__AVX512F__)
// Calls f(load, store) for kVectors vectors of a row at a time; load(from) and store(to, lanes) are those of the row at
// from and to, and leave out what is beyond its end.
template <typename F>
inline void for_lanes(int64_t hidden, const F& f) {
  constexpr int64_t kStep = 16 * kVectors;
  for (int64_t first = 0; first < hidden; first += kStep) {
    __mmask16 mask[kVectors];
    for (int64_t i = 0; i < kVectors; ++i) {
      const int64_t left = hidden - first - 16 * i;
      mask[i] = static_cast<__mmask16>(left >= 16 ? 0xFFFFu : left > 0 ? (1u << left) - 1u : 0u);
    }
    const auto load = [&](const float* from) __attribute__((always_inline)) {
      return each([&](int i) { return _mm512_maskz_loadu_ps(mask[i], from + first + 16 * i); });
    };
    const auto store = [&](float* to, const Lanes& lanes) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) _mm512_mask_storeu_ps(to + first + 16 * i, mask[i], lanes.v[i]);
    };
    f(load, store);
  }
}

void gru_row(const float* gates, const float* recurrent, const float* state, float* next, int64_t hidden) {
  for_lanes(hidden, [&](const auto& load, const auto& store) __attribute__((always_inline)) {
    store(next, gru_unit(load(gates), load(gates + hidden), load(gates + 2 * hidden), load(recurrent),
                         load(recurrent + hidden), load(recurrent + 2 * hidden), load(state)));
  });
}

void lstm_row(const float* gates, const float* recurrent, const float* cell, float* next, float* next_cell,
              int64_t hidden) {
  for_lanes(hidden, [&](const auto& load, const auto& store) __attribute__((always_inline)) {
    const auto gate = [&](int64_t g) __attribute__((always_inline)) {
      return load(gates + g * hidden) + load(recurrent + g * hidden);
    };
    const auto unit = lstm_unit(gate(0), gate(1), gate(2), gate(3), load(cell));
    store(next, unit.h);
    store(next_cell, unit.c);
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
