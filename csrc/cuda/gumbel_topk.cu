// Gumbel top-k as a race of blocks (csrc/math/race.h) in two kernels: one reads every logit once and keeps the first
// arrival of each block of 64; in the other a warp runs a row's race and opens the blocks that win.
#include "gumbel_topk.h"
#include "launch.h"
#include "race.h"

namespace irecgan::cuda {
namespace {

constexpr int kArrivalThreads = 128;
constexpr int kMaxGrid = 1 << 30;

template <typename T>
__device__ __forceinline__ Stream row_stream(const GumbelTopk<T>& op, int64_t row) {
  const int64_t seed = op.device_seed == nullptr ? op.host_seed : *op.device_seed;
  return Stream{static_cast<uint64_t>(seed), op.rows[row], static_cast<uint32_t>(op.step), 0, 0};
}

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
    BlockStats<T> mine{};
#pragma unroll 2
    for (int turn = 0; turn < kLanes; ++turn) {
      const int64_t first = (first_block + turn * kGroups + lane / kLanes) * kBlock + lane % kLanes;
      T x[kBlock / kLanes];
#pragma unroll
      for (int i = 0; i < kBlock / kLanes; ++i) {
        const int64_t item = first + i * kLanes;
        x[i] = item < op.items ? logits[item] : -static_cast<T>(kInfinity);
      }
      const BlockStats<T> stats = block_stats<kLanes>(x);
      if (turn == lane % kLanes) mine = stats;
    }
    const int64_t block = first_block + lane % kLanes * kGroups + lane / kLanes;
    if (block >= blocks) continue;
    op.log_times[row * blocks + block] = log_gap(exponential_fast(first_uniform(row_stream(op, row), block)), mine);
    op.taken[row * blocks + block] = 0;
  }
}

template <typename T>
__device__ void race(const GumbelTopk<T>& op, int64_t row, int lane) {
  const int64_t blocks = block_count(op.items);
  T* values = op.values + row * op.k;
  int64_t* indices = op.indices + row * op.k;
  const RowRace<T> race{row_stream(op, row),     blocks, op.k,   op.log_times + row * blocks,
                        op.taken + row * blocks, values, indices};
  const int64_t drawn = race_row(RowLogits<T>{op.logits + row * op.items, op.items}, race, lane);
  const T nothing = static_cast<T>(drawn < 0 ? __builtin_nanf("") : -kInfinity);
  for (int64_t j = (drawn < 0 ? 0 : drawn) + lane; j < op.k; j += kWarp) {
    values[j] = nothing;
    indices[j] = -1;
  }
}

// One warp per thread block: rows are few and wide, so they spread over as many multiprocessors as there are.
template <typename T>
__global__ void __launch_bounds__(kWarp) race_kernel(GumbelTopk<T> op) {
  for (int64_t row = blockIdx.x; row < op.count; row += gridDim.x) race(op, row, static_cast<int>(threadIdx.x));
}

template <typename T>
cudaError_t launch(cudaStream_t stream, const GumbelTopk<T>& op) {
  if (op.count == 0) return cudaSuccess;
  constexpr int64_t kWarps = kArrivalThreads / kWarp;
  const int64_t tasks = op.count * ((block_count(op.items) + kWarp - 1) / kWarp);
  const int64_t grid = (tasks + kWarps - 1) / kWarps;
  IRECGAN_LAUNCH(first_arrivals_kernel<T>, static_cast<unsigned>(grid < kMaxGrid ? grid : kMaxGrid), kArrivalThreads, 0,
                 stream, op);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  IRECGAN_LAUNCH(race_kernel<T>, static_cast<unsigned>(op.count < kMaxGrid ? op.count : kMaxGrid), kWarp, 0, stream,
                 op);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_gumbel_topk(cudaStream_t stream, const GumbelTopk<float>& op) { return launch(stream, op); }
cudaError_t launch_gumbel_topk(cudaStream_t stream, const GumbelTopk<double>& op) { return launch(stream, op); }

}  // namespace irecgan::cuda
