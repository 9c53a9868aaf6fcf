#include "matmul.h"

#include <algorithm>

#include "kernels.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kRowGrain = 24;   // rows per thread at least: tiles of few rows waste the weights they load
constexpr int64_t kPackBlock = 64;  // inner indices at a time: whole cache lines of both matrices
constexpr int64_t kPackGrain = 8;   // panels per thread at least

}  // namespace

int64_t packed_size(int64_t rows, int64_t columns) {
  const int64_t width = kernels().panel;
  return (columns + width - 1) / width * width * rows;
}

void pack_rows(const Runtime& runtime, const float* matrix, int64_t rows, int64_t columns, float* packed) {
  const int64_t width = kernels().panel;
  runtime.parallel_for((columns + width - 1) / width, kPackGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t filled = std::min(width, columns - p * width);
      for (int64_t r = 0; r < rows; ++r) {
        float* to = packed + (p * rows + r) * width;
        std::copy_n(matrix + r * columns + p * width, filled, to);
        std::fill(to + filled, to + width, 0.0f);
      }
    }
  });
}

PackedLinear::PackedLinear(const Runtime& runtime, const float* weight, const float* bias, int64_t m, int64_t n)
    : inner_(m) {
  const int64_t width = kernels().panel;
  const int64_t panels = (n + width - 1) / width;
  stride_ = panels * width;
  float* const packed = weight_.reserve(stride_ * m);
  std::fill_n(bias_.reserve(stride_), stride_, 0.0f);
  if (bias != nullptr) std::copy_n(bias, n, bias_.data());
  runtime.parallel_for(panels, kPackGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      float* to = packed + p * m * width;
      const int64_t filled = std::min(width, n - p * width);
      for (int64_t first = 0; first < m; first += kPackBlock) {
        const int64_t last = std::min(m, first + kPackBlock);
        if (filled < width) std::fill(to + first * width, to + last * width, 0.0f);
        for (int64_t j = 0; j < filled; ++j) {
          const float* from = weight + (p * width + j) * m;
          for (int64_t i = first; i < last; ++i) to[i * width + j] = from[i];
        }
      }
    }
  });
}

void PackedLinear::apply(const Runtime& runtime, const float* a, const int64_t* index, int64_t rows, float* out) const {
  const Kernels& kernel = kernels();
  runtime.parallel_for(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    kernel.packed_linear({a, index, inner_, stride_, weight_.data(), bias_.data(), out, false}, begin, end);
  });
}

void PackedLinear::apply_here(const float* a, const int64_t* index, int64_t rows, float* out) const {
  kernels().packed_linear({a, index, inner_, stride_, weight_.data(), bias_.data(), out, false}, 0, rows);
}

}  // namespace irecgan::cpu
