// Pieces of one stretch of memory, in the order in which they are asked for.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace irecgan::cuda {

// With a null base it only counts.
struct Cutter {
  unsigned char* base;
  int64_t used = 0;

  template <typename T>
  __host__ __device__ T* cut(int64_t count) {
    T* piece = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return piece;
  }
};

}  // namespace irecgan::cuda
