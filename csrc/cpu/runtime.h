// What the CPU ops need from their host framework, as plain functions: threads and matrix products.
#pragma once

#include <cstdint>
#include <functional>

namespace irecgan::cpu {

using RangeFunction = std::function<void(int64_t begin, int64_t end)>;

// A float32 matrix in memory of the caller; transposed where column_stride is not 1.
struct Matrix {
  const float* data;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride = 1;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

struct Runtime {
  // Calls f on disjoint ranges that cover 0..n-1, at least `grain` indices each, possibly at the same time.
  void (*parallel_for)(int64_t n, int64_t grain, const RangeFunction& f);
  // out [rows, n] = a [rows, m] @ weight [n, m]^T + (bias [n], or out itself where bias is null). All contiguous
  // float32.
  void (*linear)(float* out, const float* a, const float* weight, const float* bias, int64_t rows, int64_t m,
                 int64_t n);
  // out [a.rows, b.columns], rows `out_stride` apart, = a @ b, added to what is there if `accumulate`.
  void (*product)(float* out, int64_t out_stride, const Matrix& a, const Matrix& b, bool accumulate);
};

}  // namespace irecgan::cpu
