#include "matmul.h"

#include "kernels.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kRowGrain = 24;   // rows per thread at least: tiles of few rows waste the weights they load
constexpr int64_t kPackBlock = 16;  // floats of a cache line
constexpr int64_t kPackGrain = 8;   // panels per thread at least

}  // namespace

PackedLinear::PackedLinear(const Runtime& runtime, const float* weight, const float* bias, int64_t m, int64_t n)
    : inner_(m), columns_(n) {
  const int64_t width = kernels().panel;
  const int64_t panels = (n + width - 1) / width;
  weight_.resize(static_cast<size_t>(panels * m * width));
  bias_.resize(static_cast<size_t>(panels * width));
  if (bias != nullptr) std::copy_n(bias, n, bias_.data());
  runtime.parallel_for(panels, kPackGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      float* to = weight_.data() + p * m * width;
      const int64_t filled = std::min(width, n - p * width);
      for (int64_t first = 0; first < m; first += kPackBlock) {
        const int64_t last = std::min(m, first + kPackBlock);
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
    kernel.packed_linear({a, index, inner_, columns_, weight_.data(), bias_.data(), out}, begin, end);
  });
}

}  // namespace irecgan::cpu
