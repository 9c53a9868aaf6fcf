// Reductions over the lanes of a warp. All 32 lanes call them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace irecgan::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Over groups of kLanes neighbours, a power of two; every lane gets its group's result.
template <int kLanes, typename T>
__device__ __forceinline__ T group_max(T x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

// A butterfly adds the same pairs in every lane, so all lanes get the same bits.
template <int kLanes, typename T>
__device__ __forceinline__ T group_sum(T x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

// Sum over the lanes up to and including this one.
template <typename T>
__device__ __forceinline__ T inclusive_sum(T x, int lane) {
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T before = __shfl_up_sync(kAllLanes, x, distance);
    if (lane >= distance) x += before;
  }
  return x;
}

struct Arrival {
  double log_time;
  int32_t block;
};

__device__ __forceinline__ Arrival earlier(Arrival a, Arrival b) {
  // Equal times go to the lower block: the result must not depend on which lane held which.
  return b.log_time < a.log_time || (b.log_time == a.log_time && b.block < a.block) ? b : a;
}

__device__ __forceinline__ Arrival warp_earliest(Arrival x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Arrival other{__shfl_xor_sync(kAllLanes, x.log_time, distance),
                        __shfl_xor_sync(kAllLanes, x.block, distance)};
    x = earlier(x, other);
  }
  return x;
}

}  // namespace irecgan::cuda
