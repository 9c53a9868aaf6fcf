// More than 48 KiB of dynamic shared memory has to be asked for, once per kernel and device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace irecgan::cuda {

template <typename Kernel>
cudaError_t allow_shared([[maybe_unused]] Kernel kernel, [[maybe_unused]] int64_t bytes) {
#if defined(__CUDACC__)
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
#else
  return cudaSuccess;
#endif
}

}  // namespace irecgan::cuda
