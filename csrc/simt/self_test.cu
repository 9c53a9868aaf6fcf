// Small kernels, right and wrong, that show what the executor does and what it refuses.
#include "../cuda/launch.h"
#include "entry.h"

namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;

// out[i] = sum of in[0..i] within a block of any size, through dynamic shared memory.
__global__ void scan(const int* in, int* out) {
  IRECGAN_DYNAMIC_SHARED(int, sums);
  const unsigned i = threadIdx.x;
  sums[i] = in[i];
  __syncthreads();
  for (unsigned distance = 1; distance < blockDim.x; distance *= 2) {
    const int before = i >= distance ? sums[i - distance] : 0;
    __syncthreads();
    sums[i] += before;
    __syncthreads();
  }
  out[i] = sums[i];
}

// out[i] = in[n - 1 - i]; without the barrier the result depends on which thread runs first.
template <bool kBarrier>
__global__ void reverse(const int* in, int* out) {
  __shared__ int staged[64];
  staged[threadIdx.x] = in[threadIdx.x];
  if constexpr (kBarrier) __syncthreads();
  out[threadIdx.x] = staged[blockDim.x - 1 - threadIdx.x];
}

__global__ void warp_operations(const int* in, int* out) {
  const int lane = static_cast<int>(threadIdx.x), x = in[lane];
  out[lane] = __shfl_sync(kAll, x, 5);
  out[32 + lane] = __shfl_xor_sync(kAll, x, 3);
  out[64 + lane] = __shfl_up_sync(kAll, x, 2u, 8);
  out[96 + lane] = __shfl_down_sync(kAll, x, 2u, 8);
  out[128 + lane] = static_cast<int>(__ballot_sync(kAll, lane % 3 == 0));
  out[160 + lane] = __any_sync(kAll, lane == 7) + 2 * __all_sync(kAll, lane < 31);
  // Two halves of a warp at different places of the program.
  out[192 + lane] = lane < 16 ? __shfl_sync(0x0000FFFFu, x, 1) : __shfl_sync(0xFFFF0000u, x, 17);
}

__global__ void histogram(const int* in, int* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&out[in[i] % 4], 1);
}

__global__ void barrier_in_a_branch(const int*, int* out) {
  if (threadIdx.x < 7) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(const int*, int* out) {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void barrier_against_shuffle(const int*, int* out) {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
  }
}

__global__ void exited_lane(const int*, int* out) {
  if (threadIdx.x == 9) return;
  out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}

__global__ void outside_the_mask(const int*, int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xFFFFu, 1, 20);
}

__global__ void caller_not_in_mask(const int*, int* out) { out[threadIdx.x] = __shfl_sync(0xFFFFu, 1, 0); }

__global__ void different_operations(const int*, int* out) {
  out[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(kAll, 1, 0) : static_cast<int>(__ballot_sync(kAll, 1));
}

// For AddressSanitizer: one past the end of the dynamic shared memory.
__global__ void past_the_end(const int*, int* out) {
  IRECGAN_DYNAMIC_SHARED(int, staged);
  staged[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = staged[threadIdx.x + 1];
}

using Kernel = void (*)(const int*, int*);

const char* launch(Kernel kernel, int reversed, unsigned blocks, unsigned threads, const int* in, int* out) {
  return simt::outcome(reversed,
                       [=] { IRECGAN_LAUNCH(kernel, blocks, threads, threads * sizeof(int), nullptr, in, out); });
}

}  // namespace

#define SIMT_ENTRY(name, kernel)                                                                          \
  extern "C" const char* name(int reversed, unsigned blocks, unsigned threads, const int* in, int* out) { \
    return launch(kernel, reversed, blocks, threads, in, out);                                            \
  }

SIMT_ENTRY(run_scan, scan)
SIMT_ENTRY(run_reverse, reverse<true>)
SIMT_ENTRY(run_reverse_without_barrier, reverse<false>)
SIMT_ENTRY(run_warp_operations, warp_operations)
SIMT_ENTRY(run_histogram, histogram)
SIMT_ENTRY(run_barrier_in_a_branch, barrier_in_a_branch)
SIMT_ENTRY(run_two_barriers, two_barriers)
SIMT_ENTRY(run_barrier_against_shuffle, barrier_against_shuffle)
SIMT_ENTRY(run_exited_lane, exited_lane)
SIMT_ENTRY(run_outside_the_mask, outside_the_mask)
SIMT_ENTRY(run_caller_not_in_mask, caller_not_in_mask)
SIMT_ENTRY(run_different_operations, different_operations)
SIMT_ENTRY(run_past_the_end, past_the_end)
