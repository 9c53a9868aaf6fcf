// The two things that CUDA has syntax for and C++ has not. Every launch and every dynamic shared array goes through
// these macros, so that csrc/simt can run the same sources on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDACC__)

#define IRECGAN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

// T* name: the dynamic shared memory of the thread block, 16-byte aligned.
#define IRECGAN_DYNAMIC_SHARED(T, name)                          \
  extern __shared__ __align__(16) unsigned char shared_##name[]; \
  T* const name = reinterpret_cast<T*>(shared_##name)

#else

#define IRECGAN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  static_cast<void>(stream), simt::launch((grid), (block), (shared_bytes), [=] { (kernel)(__VA_ARGS__); })

#define IRECGAN_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(simt::dynamic_shared())

#endif

namespace irecgan::cuda {

constexpr int64_t kMaxGrid = int64_t{1} << 30;

// Blocks of a grid that has `tasks` to do; each takes every grid'th one.
inline unsigned grid_of(int64_t tasks) { return static_cast<unsigned>(tasks < kMaxGrid ? tasks : kMaxGrid); }

// More than 48 KB of dynamic shared memory has to be asked for, on every device anew.
template <typename Kernel>
cudaError_t allow_shared(Kernel kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

}  // namespace irecgan::cuda
