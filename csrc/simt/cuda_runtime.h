// Stands in for CUDA's own header when a .cu file is compiled for the host: put this folder first on the include path.
#pragma once

#include <algorithm>
#include <cmath>

#include "simt.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

// The executor knows which thread runs.
#define threadIdx (::simt::detail::executor->fiber().index)
#define blockIdx (::simt::detail::executor->block_index())
#define blockDim (::simt::detail::executor->block_size())
#define gridDim (::simt::detail::executor->grid_size())
#define warpSize (::simt::kWarpSize)

using dim3 = simt::Dim3;
using cudaStream_t = void*;

enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }  // what goes wrong is thrown

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;  // shared memory is as large as a launch asks for
}

#define SIMT_HERE std::source_location where = std::source_location::current()

inline void __syncthreads(SIMT_HERE) { simt::detail::executor->wait({simt::Operation::kBarrier, 0, 0, 0, where}); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, SIMT_HERE) {
  simt::detail::executor->wait({simt::Operation::kSyncWarp, mask, 0, 0, where});
}

// A lane outside the segment of `width` lanes leaves the value as it is (up, down) or wraps around (a plain shuffle).
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SIMT_HERE) {
  const int self = static_cast<int>(simt::detail::executor->lane());
  return simt::shuffle(mask, value, static_cast<unsigned>((self & ~(width - 1)) + (lane & (width - 1))), where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_HERE) {
  const int self = static_cast<int>(simt::detail::executor->lane());
  const int source = self ^ bits;
  // Lanes of later segments keep their own value, earlier ones may be read.
  return simt::shuffle(mask, value, static_cast<unsigned>(source / width <= self / width ? source : self), where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, SIMT_HERE) {
  const int self = static_cast<int>(simt::detail::executor->lane());
  const int source = self - static_cast<int>(distance);
  return simt::shuffle(mask, value, static_cast<unsigned>(source >= (self & ~(width - 1)) ? source : self), where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, SIMT_HERE) {
  const int self = static_cast<int>(simt::detail::executor->lane());
  const int source = self + static_cast<int>(distance);
  return simt::shuffle(mask, value, static_cast<unsigned>(source < (self & ~(width - 1)) + width ? source : self),
                       where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot(mask, predicate != 0, where) == mask;
}

#undef SIMT_HERE

// One fiber runs at a time, so a plain read-modify-write is atomic.
template <typename T, typename F>
T simt_update(T* address, F change) {
  const T before = *address;
  *address = change(before);
  return before;
}
template <typename T>
T atomicAdd(T* address, T value) {
  return simt_update(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMin(T* address, T value) {
  return simt_update(address, [=](T old) { return std::min(old, value); });
}
template <typename T>
T atomicMax(T* address, T value) {
  return simt_update(address, [=](T old) { return std::max(old, value); });
}
template <typename T>
T atomicAnd(T* address, T value) {
  return simt_update(address, [=](T old) { return old & value; });
}
template <typename T>
T atomicOr(T* address, T value) {
  return simt_update(address, [=](T old) { return old | value; });
}
template <typename T>
T atomicExch(T* address, T value) {
  return simt_update(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, T expected, T value) {
  return simt_update(address, [=](T old) { return old == expected ? value : old; });
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
template <typename T>
T __ldg(const T* address) {
  return *address;
}
