// Gumbel top-k as a race of blocks (csrc/math/race.h) in two kernels: one reads every logit once and keeps the first
// arrival of each block of 64; in the other a warp runs a row's race and opens the blocks that win.
#include "gumbel_topk.h"
#include "launch.h"
#include "race.h"

namespace irecgan::cuda {
namespace {

constexpr int kArrivalThreads = 128;

// log_times, taken. A warp takes 32 blocks, four at a time with eight lanes each: a lane's eight loads are whole memory
// sectors, and three shuffles finish a reduction of four blocks at once. Each lane then keeps one of the 32 blocks, so
// that the random number and the double precision logarithms run on full warps.
template <typename T>
__global__ void __launch_bounds__(kArrivalThreads) first_arrivals_kernel(GumbelTopk<T> op) {
  constexpr int kLanes = 8;
  constexpr int kGroups = kWarp / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t blocks = block_count(op.items);
  const int64_t chunks = (blocks + kWarp - 1) / kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kArrivalThreads / kWarp);
  int64_t task = (static_cast<int64_t>(blockIdx.x) * kArrivalThreads + threadIdx.x) / kWarp;
  for (; task < op.count * chunks; task += warps) {
    const int64_t row = task / chunks;
    const int64_t first_block = task % chunks * kWarp;
    const T* logits = op.logits + row * op.items;
    LogitStats<T> mine{};
#pragma unroll 2
    for (int turn = 0; turn < kLanes; ++turn) {
      const int64_t first = (first_block + turn * kGroups + lane / kLanes) * kBlock + lane % kLanes;
      T x[kBlock / kLanes];
#pragma unroll
      for (int i = 0; i < kBlock / kLanes; ++i) {
        const int64_t item = first + i * kLanes;
        x[i] = item < op.items ? logits[item] : -static_cast<T>(kInfinity);
      }
      const LogitStats<T> stats = block_stats<kLanes>(x);
      if (turn == lane % kLanes) mine = stats;
    }
    const int64_t block = first_block + lane % kLanes * kGroups + lane / kLanes;
    if (block >= blocks) continue;
    op.log_times[row * blocks + block] = log_gap(exponential_fast(first_uniform(row_stream(op.key, row), block)), mine);
    op.taken[row * blocks + block] = 0;
  }
}

// A row's logits in memory.
template <typename T>
struct LogitRow {
  const T* logits;
  int64_t items;

  __device__ __forceinline__ void load(int64_t block, int lane, T (&x)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t item = block * kBlock + 2 * lane + i;
      x[i] = item < items ? logits[item] : -static_cast<T>(kInfinity);
    }
  }
};

// One warp per thread block: rows are few and wide, so they spread over as many multiprocessors as there are.
template <typename T>
__global__ void __launch_bounds__(kWarp) race_kernel(GumbelTopk<T> op) {
  const int64_t blocks = block_count(op.items);
  for (int64_t row = blockIdx.x; row < op.count; row += gridDim.x) {
    const Race<T> race{blocks,
                       op.k,
                       op.log_times + row * blocks,
                       op.taken + row * blocks,
                       op.values + row * op.k,
                       op.indices + row * op.k,
                       nullptr};
    run_race(race, row_stream(op.key, row), LogitRow<T>{op.logits + row * op.items, op.items},
             static_cast<int>(threadIdx.x));
  }
}

template <typename T>
cudaError_t launch(cudaStream_t stream, const GumbelTopk<T>& op) {
  if (op.count == 0) return cudaSuccess;
  constexpr int64_t kWarps = kArrivalThreads / kWarp;
  const int64_t tasks = op.count * ((block_count(op.items) + kWarp - 1) / kWarp);
  const int64_t grid = (tasks + kWarps - 1) / kWarps;
  IRECGAN_LAUNCH(first_arrivals_kernel<T>, grid_of(grid), kArrivalThreads, 0, stream, op);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  IRECGAN_LAUNCH(race_kernel<T>, grid_of(op.count), kWarp, 0, stream, op);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_gumbel_topk(cudaStream_t stream, const GumbelTopk<float>& op) { return launch(stream, op); }
cudaError_t launch_gumbel_topk(cudaStream_t stream, const GumbelTopk<double>& op) { return launch(stream, op); }

}  // namespace irecgan::cuda
