// Gumbel top-k as a race of blocks (csrc/math/race.h) in two kernels: one reads every logit once and keeps the first
// arrival of each block of 64; in the other a warp runs a row's race and opens the blocks that win.
#include "../math/exp.h"
#include "../math/race.h"
#include "gumbel_topk.h"
#include "launch.h"
#include "warp.h"

namespace irecgan::cuda {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr int kArrivalThreads = 128;
constexpr int kMaxGrid = 1 << 30;

template <typename T>
__device__ __forceinline__ Stream row_stream(const GumbelTopk<T>& op, int64_t row) {
  const int64_t seed = op.device_seed == nullptr ? op.host_seed : *op.device_seed;
  return Stream{static_cast<uint64_t>(seed), op.rows[row], static_cast<uint32_t>(op.step), 0, 0};
}

template <typename T>
struct BlockStats {
  T max;
  T sum;  // of exp(l - max)
};

// Log of the wait until the next arrival of what weighs W = sum exp(max): Exp(1) / W. +inf where nothing is left to
// arrive, since then sum = 0 and max = -inf.
template <typename T>
__device__ __forceinline__ double log_gap(double exponential, BlockStats<T> stats) {
  return log(exponential / static_cast<double>(stats.sum)) - static_cast<double>(stats.max);
}

// Statistics of a block's 64 items spread over kLanes neighbours, kBlock / kLanes each, absent ones -inf.
// NaN hides from the comparisons but not from the sum, and +inf turns into NaN there.
template <int kLanes, typename T>
__device__ __forceinline__ BlockStats<T> block_stats(const T (&x)[kBlock / kLanes]) {
  T max = x[0];
#pragma unroll
  for (int i = 1; i < kBlock / kLanes; ++i) max = x[i] > max ? x[i] : max;
  max = group_max<kLanes>(max);
  // A block of -inf alone would give -inf - -inf.
  const T shift = max == -static_cast<T>(kInfinity) ? T{0} : max;
  T sum = 0;
#pragma unroll
  for (int i = 0; i < kBlock / kLanes; ++i) sum += exp_fast(x[i] - shift);
  return BlockStats<T>{max, group_sum<kLanes>(sum)};
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

// Two items of the block per lane: 2 * lane and 2 * lane + 1, so that the running sum over lanes is in index order.
template <typename T>
__device__ __forceinline__ void load_block(const T* logits, int64_t items, int64_t block, uint64_t taken, int lane,
                                           T (&x)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t item = block * kBlock + 2 * lane + i;
    // A drawn item's logit becomes -inf by selection, never by arithmetic.
    const bool absent = item >= items || (taken >> (2 * lane + i) & 1);
    x[i] = absent ? -static_cast<T>(kInfinity) : logits[item];
  }
}

// First item whose cumulated weight passes u of the total, in index order. Rounding can leave the target at the very
// end: then the last item with weight.
template <typename T>
__device__ __forceinline__ int pick_item(const T (&x)[2], T max, double u, int lane) {
  const double w0 = exp_fast(x[0] - max), w1 = exp_fast(x[1] - max);
  const double through = inclusive_sum(w0 + w1, lane);
  const double target = u * __shfl_sync(kAllLanes, through, kWarp - 1);
  const unsigned passed = __ballot_sync(kAllLanes, w0 + w1 > 0 && through > target);
  const unsigned weighty = __ballot_sync(kAllLanes, w0 + w1 > 0);
  const int owner = passed != 0 ? __ffs(static_cast<int>(passed)) - 1 : 31 - __clz(static_cast<int>(weighty));
  const bool is_first = !(w1 > 0) || (passed != 0 && w0 > 0 && through - w1 > target);
  return 2 * owner + (__shfl_sync(kAllLanes, is_first ? 1 : 0, owner) ? 0 : 1);
}

// The earliest of the blocks that are congruent to `lane_of` modulo 32, looked for by all lanes.
__device__ __forceinline__ Arrival earliest_of_lane(const double* log_times, int64_t blocks, int lane_of, int lane) {
  Arrival best{static_cast<double>(kInfinity), INT32_MAX};
  for (int64_t b = lane_of + static_cast<int64_t>(lane) * kWarp; b < blocks; b += kWarp * kWarp)
    best = earlier(best, Arrival{log_times[b], static_cast<int32_t>(b)});
  return warp_earliest(best);
}

// A lane keeps the earliest arrival among the blocks congruent to it modulo 32. A draw changes one block, so only the
// lane that keeps it has its blocks read again, by the whole warp.
template <typename T>
__device__ void race(const GumbelTopk<T>& op, int64_t row, int lane) {
  const int64_t blocks = block_count(op.items);
  const T* logits = op.logits + row * op.items;
  double* log_times = op.log_times + row * blocks;
  uint64_t* all_taken = op.taken + row * blocks;
  T* values = op.values + row * op.k;
  int64_t* indices = op.indices + row * op.k;

  Arrival kept{static_cast<double>(kInfinity), INT32_MAX};
  bool faulty = false;
  for (int64_t b = lane; b < blocks; b += kWarp) {
    const double log_time = log_times[b];
    faulty = faulty || log_time != log_time;
    kept = earlier(kept, Arrival{log_time, static_cast<int32_t>(b)});
  }
  faulty = __any_sync(kAllLanes, faulty) != 0;

  const Stream stream = row_stream(op, row);
  int64_t drawn = 0;
  for (; drawn < op.k && !faulty; ++drawn) {
    const Arrival next = warp_earliest(kept);
    if (!(next.log_time < static_cast<double>(kInfinity))) break;
    uint64_t taken = all_taken[next.block];
    const Pick pick = arrival_pick(stream, next.block, __popcll(taken));
    T x[2];
    load_block(logits, op.items, next.block, taken, lane, x);
    const int item = pick_item(x, group_max<kWarp>(x[0] > x[1] ? x[0] : x[1]), pick.item, lane);
    taken |= uint64_t{1} << item;
    // What is left is summed anew: subtraction loses all precision once one item dominates.
#pragma unroll
    for (int i = 0; i < 2; ++i) x[i] = item == 2 * lane + i ? -static_cast<T>(kInfinity) : x[i];
    const double gap = log_gap(exponential_fast(pick.gap), block_stats<kWarp>(x));
    __syncwarp();  // every lane has read all_taken
    if (lane == 0) {
      values[drawn] = static_cast<T>(-next.log_time);
      indices[drawn] = static_cast<int64_t>(next.block) * kBlock + item;
      all_taken[next.block] = taken;
      log_times[next.block] =
          gap < static_cast<double>(kInfinity) ? log_add_exp(next.log_time, gap) : static_cast<double>(kInfinity);
    }
    __syncwarp();  // lane 0's writes are seen below
    const Arrival anew = earliest_of_lane(log_times, blocks, next.block % kWarp, lane);
    if (lane == next.block % kWarp) kept = anew;
  }
  const T nothing = static_cast<T>(faulty ? __builtin_nanf("") : -kInfinity);
  for (int64_t j = drawn + lane; j < op.k; j += kWarp) {
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
