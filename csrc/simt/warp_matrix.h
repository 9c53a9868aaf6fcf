// The tensor core instructions on the host: what the PTX ISA says each lane holds of a matrix, and the product. An
// instruction is done when all 32 lanes have reached it, as `.aligned` asks.
#pragma once

#include <cmath>

#include "simt.h"

namespace simt {

// One lane's registers of D = A B + D.
struct MatrixLane {
  float* d;           // [4]
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
};

namespace detail {

constexpr int kMatrixRows = 16, kMatrixColumns = 8;

inline float bfloat16_of(uint32_t word, int half) {
  const uint32_t bits = (half == 0 ? word & 0xFFFFu : word >> 16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The unit reads the upper 19 bits of a register.
inline float tf32_of(uint32_t word) {
  word &= 0xFFFFE000u;
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// D [16, 8], both shapes: lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
template <int kDepth>
void accumulate(void* const* parts, const float (&a)[kMatrixRows][kDepth], const float (&b)[kDepth][kMatrixColumns]) {
  for (int lane = 0; lane < static_cast<int>(kWarpSize); ++lane) {
    float* d = static_cast<const MatrixLane*>(parts[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = 0;  // exact for these inputs, up to the range of exponents
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      const auto rounded = static_cast<float>(sum);  // infinite beyond a float's range
      d[i] = std::isfinite(rounded) ? static_cast<float>(sum + static_cast<double>(d[i])) : rounded + d[i];
    }
  }
}

// A [16, 16]: register i holds row l / 4 + 8 (i % 2), columns 2 (l % 4) + 8 (i / 2) and the next. B [16, 8]: register i
// holds rows 2 (l % 4) + 8 i and the next of column l / 4.
inline void mma_m16n8k16_bf16(void* const* parts) {
  float a[kMatrixRows][16], b[16][kMatrixColumns];
  for (int lane = 0; lane < static_cast<int>(kWarpSize); ++lane) {
    const auto& part = *static_cast<const MatrixLane*>(parts[lane]);
    const int group = lane / 4, first = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][first + i / 2 * 8 + half] = bfloat16_of(part.a[i], half);
      for (int i = 0; i < 2; ++i) b[first + i * 8 + half][group] = bfloat16_of(part.b[i], half);
    }
  }
  accumulate(parts, a, b);
}

// A [16, 8]: register i holds row l / 4 + 8 (i % 2), column l % 4 + 4 (i / 2). B [8, 8]: row l % 4 + 4 i, column l / 4.
inline void mma_m16n8k8_tf32(void* const* parts) {
  float a[kMatrixRows][8], b[8][kMatrixColumns];
  for (int lane = 0; lane < static_cast<int>(kWarpSize); ++lane) {
    const auto& part = *static_cast<const MatrixLane*>(parts[lane]);
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][place + i / 2 * 4] = tf32_of(part.a[i]);
    for (int i = 0; i < 2; ++i) b[place + i * 4][group] = tf32_of(part.b[i]);
  }
  accumulate(parts, a, b);
}

struct LoadLane {
  uint32_t* out;    // [4]
  const void* row;  // 16 bytes
};

// Matrix m [8 rows of 16 bytes] has its rows' addresses in lanes 8 m .. 8 m + 7; lane l gets word l % 4 of row l / 4 of
// each.
inline void ldmatrix_x4(void* const* parts) {
  for (int m = 0; m < 4; ++m) {
    for (int lane = 0; lane < static_cast<int>(kWarpSize); ++lane) {
      const auto* row = static_cast<const char*>(static_cast<const LoadLane*>(parts[8 * m + lane / 4])->row);
      std::memcpy(&static_cast<LoadLane*>(parts[lane])->out[m], row + lane % 4 * 4, 4);
    }
  }
}

}  // namespace detail

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              std::source_location where = std::source_location::current()) {
  MatrixLane lane{d, a, b};
  collective(detail::mma_m16n8k16_bf16, &lane, where);
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             std::source_location where = std::source_location::current()) {
  MatrixLane lane{d, a, b};
  collective(detail::mma_m16n8k8_tf32, &lane, where);
}

inline void ldmatrix_x4(uint32_t (&out)[4], const void* row,
                        std::source_location where = std::source_location::current()) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    throw Misuse("ldmatrix at " + detail::text(where) + ": a row's address must be a multiple of 16");
  detail::LoadLane lane{out, row};
  collective(detail::ldmatrix_x4, &lane, where);
}

// cvt.rna.tf32: 10 bits of mantissa, to nearest, ties away from zero.
inline uint32_t tf32_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return std::isfinite(x) ? (bits + 0x1000u) & 0xFFFFE000u : bits;
}

}  // namespace simt
