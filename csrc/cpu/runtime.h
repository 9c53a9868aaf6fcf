// What the CPU ops need from their host framework, as plain functions: threads and matrix products.
#pragma once

#include <cstdint>
#include <functional>

namespace irecgan::cpu {

using RangeFunction = std::function<void(int64_t begin, int64_t end)>;

struct Runtime {
  // Calls f on disjoint ranges that cover 0..n-1, at least `grain` indices each, possibly at the same time.
  void (*parallel_for)(int64_t n, int64_t grain, const RangeFunction& f);
  // out [rows, n] = a [rows, m] @ weight [n, m]^T + (bias [n], or out itself where bias is null). All contiguous
  // float32.
  void (*linear)(float* out, const float* a, const float* weight, const float* bias, int64_t rows, int64_t m,
                 int64_t n);
};

}  // namespace irecgan::cpu
