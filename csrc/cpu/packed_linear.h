// The product of rows with a packed weight matrix (matmul.h), for one instruction set: tiles of kTileRows rows by one
// panel of columns stay in registers while the inner dimension runs.
#pragma once

#include <cstring>

#include "kernels.h"

namespace irecgan::cpu {
namespace {

// Six rows by 4 (2) vectors are 24 (12) sums in the 32 (16) registers, with room for the weights and a broadcast.
#if defined(__AVX512F__)
constexpr int64_t kVectorLanes = 16, kPanelVectors = 4;
#elif defined(__AVX2__)
constexpr int64_t kVectorLanes = 8, kPanelVectors = 2;
#else
constexpr int64_t kVectorLanes = 4, kPanelVectors = 2;
#endif
constexpr int64_t kPanel = kVectorLanes * kPanelVectors;
constexpr int64_t kTileRows = 6;
constexpr int64_t kLineFloats = 16;   // of a cache line
constexpr int64_t kCachedRows = 126;  // rows that meet one panel after another while they are in the second-level cache
constexpr int64_t kNearFloats = 1 << 17;  // of a weight matrix that stays in the second-level cache

// GCC's and Clang's vectors; memory need not be aligned.
typedef float Vector __attribute__((vector_size(kVectorLanes * sizeof(float)), aligned(alignof(float)), may_alias));

// out [kRows, kPanel], rows `stride` apart = bias + rows [kRows, inner] times weight [inner, kPanel], rows kWidth
// apart. Meanwhile kAhead cache lines per inner step, from `ahead` on, are fetched for later. Not inlined: it needs
// every vector register for itself. The loops over sums are unrolled by order, or they would go through memory.
template <int64_t kRows, int64_t kWidth, int64_t kAhead>
__attribute__((noinline)) void tile(const float* const* rows, int64_t inner, const float* weight, const float* bias,
                                    float* out, int64_t stride, const float* ahead) {
  Vector sum[kRows][kPanelVectors];
  const float* a[kRows];
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
    a[r] = rows[r];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kPanelVectors; ++v) sum[r][v] = *reinterpret_cast<const Vector*>(bias + v * kVectorLanes);
  }
  for (int64_t i = 0; i < inner; ++i) {
#pragma GCC unroll 4
    for (int64_t l = 0; l < kAhead; ++l) __builtin_prefetch(ahead + (i * kAhead + l) * kLineFloats, 0, 2);
    Vector w[kPanelVectors];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kPanelVectors; ++v)
      w[v] = *reinterpret_cast<const Vector*>(weight + i * kWidth + v * kVectorLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kPanelVectors; ++v) sum[r][v] += a[r][i] * w[v];
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kPanelVectors; ++v)
      *reinterpret_cast<Vector*>(out + r * stride + v * kVectorLanes) = sum[r][v];
  }
}

template <int64_t kWidth, int64_t kAhead = 0>
inline void tile_of(int64_t count, const float* const* rows, int64_t inner, const float* weight, const float* bias,
                    float* out, int64_t stride, const float* ahead = nullptr) {
  switch (count) {
    case 1:
      return tile<1, kWidth, kAhead>(rows, inner, weight, bias, out, stride, ahead);
    case 2:
      return tile<2, kWidth, kAhead>(rows, inner, weight, bias, out, stride, ahead);
    case 3:
      return tile<3, kWidth, kAhead>(rows, inner, weight, bias, out, stride, ahead);
    case 4:
      return tile<4, kWidth, kAhead>(rows, inner, weight, bias, out, stride, ahead);
    case 5:
      return tile<5, kWidth, kAhead>(rows, inner, weight, bias, out, stride, ahead);
    default:
      return tile<kTileRows, kWidth, kAhead>(rows, inner, weight, bias, out, stride, ahead);
  }
}

// Columns column..column + filled - 1 of up to kTileRows rows from `sums` [rows, kPanel] to the product's result.
inline void put_columns(const PackedProduct& p, int64_t first, int64_t count, int64_t column, int64_t filled,
                        const float* sums) {
  for (int64_t r = 0; r < count; ++r) {
    float* out = p.out + (first + r) * p.columns + column;
    if (p.accumulate) {
#pragma omp simd
      for (int64_t i = 0; i < filled; ++i) out[i] += sums[r * kPanel + i];
    } else {
      std::memcpy(out, sums + r * kPanel, static_cast<size_t>(filled) * sizeof(float));
    }
  }
}

void packed_linear(const PackedProduct& p, int64_t begin, int64_t end) {
  constexpr float kNoBias[kPanel] = {};
  constexpr int64_t kPanelLines = kPanel / kLineFloats;  // of an inner index
  const bool far = p.inner * p.columns > kNearFloats;
  for (int64_t chunk = begin; chunk < end; chunk += kCachedRows) {
    const int64_t chunk_end = chunk + kCachedRows < end ? chunk + kCachedRows : end;
    for (int64_t column = 0; column < p.columns; column += kPanel) {
      const float* weight = p.weight + column * p.inner;
      const float* bias = p.bias == nullptr ? kNoBias : p.bias + column;
      const int64_t filled = p.columns - column < kPanel ? p.columns - column : kPanel;
      for (int64_t first = chunk; first < chunk_end; first += kTileRows) {
        const int64_t count = chunk_end - first < kTileRows ? chunk_end - first : kTileRows;
        const float* rows[kTileRows];
        for (int64_t r = 0; r < count; ++r)
          rows[r] = p.a + (p.index == nullptr ? first + r : p.index[first + r]) * p.inner;
        if (filled == kPanel && !p.accumulate) {
          float* out = p.out + first * p.columns + column;
          const int64_t number = (first - chunk) / kTileRows;
          if (far && number < kPanelLines && column + kPanel < p.columns) {
            tile_of<kPanel, 1>(count, rows, p.inner, weight, bias, out, p.columns,
                               weight + p.inner * kPanel + number * p.inner * kLineFloats);
          } else {
            tile_of<kPanel>(count, rows, p.inner, weight, bias, out, p.columns);
          }
          continue;
        }
        float sums[kTileRows * kPanel];
        tile_of<kPanel>(count, rows, p.inner, weight, bias, sums, kPanel);
        put_columns(p, first, count, column, filled, sums);
      }
    }
  }
}

}  // namespace
}  // namespace irecgan::cpu
