// linear_stats.cu leaves (max, sum exp) per row and block; here a warp turns a row's into first arrivals and runs its
// race, making the logits of the blocks that win anew.
#include "launch.h"
#include "linear_gumbel_topk.h"
#include "race.h"

namespace irecgan::cuda {
namespace {

constexpr int kExcludeThreads = 128;

// excluded = what the mask forbids. A warp makes one word.
template <typename T>
__global__ void __launch_bounds__(kExcludeThreads) mask_kernel(LinearGumbelTopk<T> op) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t blocks = block_count(op.layer.items);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kExcludeThreads / kWarp);
  int64_t word = (static_cast<int64_t>(blockIdx.x) * kExcludeThreads + threadIdx.x) / kWarp;
  for (; word < op.layer.rows * blocks; word += warps) {
    const int64_t row = word / blocks;
    const bool* mask = op.mask == nullptr || !op.mask_per_row ? op.mask : op.mask + row * op.layer.items;
    unsigned halves[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t item = word % blocks * kBlock + half * kWarp + lane;
      halves[half] = __ballot_sync(kAllLanes, mask != nullptr && item < op.layer.items && !mask[item]);
    }
    if (lane == 0) op.excluded[word] = static_cast<uint64_t>(halves[1]) << 32 | halves[0];
  }
}

template <typename T>
__global__ void __launch_bounds__(kExcludeThreads) exclude_kernel(LinearGumbelTopk<T> op) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kExcludeThreads;
  int64_t at = static_cast<int64_t>(blockIdx.x) * kExcludeThreads + threadIdx.x;
  for (; at < op.layer.rows * op.exclude_width; at += threads) {
    const int64_t item = op.exclude[at];
    if (item < 0 || item >= op.layer.items) continue;
    uint64_t* word = op.excluded + at / op.exclude_width * block_count(op.layer.items) + item / kBlock;
    atomicOr(reinterpret_cast<unsigned long long*>(word), 1ull << item % kBlock);
  }
}

// kItems consecutive elements, loaded at once.
template <typename T, int kItems>
struct alignas(sizeof(T) * kItems) Vector {
  T items[kItems];
};

// A projected row. Its dot products run in another order than the tensor cores': the logits agree up to rounding.
template <typename T, int kItems>
struct ProjectedRow {
  const LinearLayer<T>& layer;
  const T* hidden;           // [H]
  const uint64_t* excluded;  // [block_count(C)] or null

  // Four items at a time, eight lanes each, so that a load is a whole line of memory.
  __device__ __forceinline__ void load(int64_t block, int lane, float (&x)[2]) const {
    constexpr int kLanes = 8;
    constexpr int kGroups = kWarp / kLanes;
    x[0] = x[1] = 0;
    for (int turn = 0; turn < kBlock / kGroups; ++turn) {
      const int64_t item = block * kBlock + turn * kGroups + lane / kLanes;
      const float logit = group_sum<kLanes>(item < layer.items ? partial_dot(item, lane % kLanes) : 0.0f);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float mine = __shfl_sync(kAllLanes, logit, (lane % 2 * 2 + i) * kLanes);
        x[i] = turn == lane / 2 ? mine : x[i];
      }
    }
    const uint64_t absent = excluded == nullptr ? 0 : excluded[block];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t item = block * kBlock + 2 * lane + i;
      if (item < layer.items && layer.bias != nullptr) x[i] += to_float(layer.bias[item]);
      x[i] = item >= layer.items || (absent >> (2 * lane + i) & 1) ? -kInfinity : x[i];
    }
  }

  // One of eight lanes' share of hidden . weight_item.
  __device__ __forceinline__ float partial_dot(int64_t item, int lane) const {
    const T* weight = layer.weight + item * layer.width;
    float sum = 0;
#pragma unroll 2
    for (int64_t h = lane * kItems; h < layer.width; h += 8 * kItems) {
      const auto w = *reinterpret_cast<const Vector<T, kItems>*>(weight + h);
      const auto s = *reinterpret_cast<const Vector<T, kItems>*>(hidden + h);
#pragma unroll
      for (int e = 0; e < kItems; ++e) sum += to_float(w.items[e]) * to_float(s.items[e]);
    }
    return sum;
  }
};

// First arrivals out of the row's statistics, nothing taken, and the log-sum-exp. Returns the largest logit, or 0 if
// none is finite.
template <typename T>
__device__ float begin_race(const LinearGumbelTopk<T>& op, int64_t row, const Stream& stream, int lane) {
  const int64_t blocks = block_count(op.layer.items);
  const LogitStats<float>* stats = op.stats + row * blocks;
  float max = -kInfinity;
  for (int64_t b = lane; b < blocks; b += kWarp) max = stats[b].max > max ? stats[b].max : max;
  max = group_max<kWarp>(max);
  const float shift = max == -kInfinity ? 0.0f : max;
  double sum = 0;
  for (int64_t b = lane; b < blocks; b += kWarp) {
    const LogitStats<float> block = stats[b];
    sum += static_cast<double>(block.sum) * exp_fast(static_cast<double>(block.max - shift));
    op.log_times[row * blocks + b] = log_gap(exponential_fast(first_uniform(stream, b)), block);
    op.taken[row * blocks + b] = 0;
  }
  sum = group_sum<kWarp>(sum);
  if (lane == 0) op.logsumexp[row] = static_cast<float>(static_cast<double>(shift) + log(sum));
  return shift;
}

// One warp per thread block, as in gumbel_topk.cu. Registers for 16 of them on a multiprocessor: for more they would
// spill.
template <typename T, int kItems>
__global__ void __launch_bounds__(kWarp, 16) projected_race_kernel(LinearGumbelTopk<T> op) {
  const int64_t blocks = block_count(op.layer.items);
  const int lane = static_cast<int>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < op.layer.rows; row += gridDim.x) {
    const Stream stream = row_stream(op.key, row);
    const float shift = begin_race(op, row, stream, lane);
    __syncwarp();  // a lane reads other lanes' arrivals below
    const Race<float> race{blocks,
                           op.k,
                           op.log_times + row * blocks,
                           op.taken + row * blocks,
                           op.values + row * op.k,
                           op.indices + row * op.k,
                           op.log_prob == nullptr ? nullptr : op.drawn_logits + row * op.k};
    const ProjectedRow<T, kItems> source{op.layer, op.layer.hidden + row * op.layer.width,
                                         op.excluded == nullptr ? nullptr : op.excluded + row * blocks};
    const int64_t drawn = run_race(race, stream, source, lane);
    if (op.log_prob == nullptr) continue;
    __syncwarp();  // what lanes wrote is read below
    const double log_prob = drawn == op.k ? slate_log_prob(race, op.stats + row * blocks, shift, source, lane)
                                          : static_cast<double>(__builtin_nanf(""));
    if (lane == 0) op.log_prob[row] = static_cast<float>(log_prob);
  }
}

template <typename T>
cudaError_t launch_exclusions(cudaStream_t stream, const LinearGumbelTopk<T>& op) {
  constexpr int64_t kWarps = kExcludeThreads / kWarp;
  const int64_t words = op.layer.rows * block_count(op.layer.items);
  IRECGAN_LAUNCH(mask_kernel<T>, grid_of((words + kWarps - 1) / kWarps), kExcludeThreads, 0, stream, op);
  const cudaError_t error = cudaGetLastError();
  const int64_t entries = op.exclude == nullptr ? 0 : op.layer.rows * op.exclude_width;
  if (error != cudaSuccess || entries == 0) return error;
  IRECGAN_LAUNCH(exclude_kernel<T>, grid_of((entries + kExcludeThreads - 1) / kExcludeThreads), kExcludeThreads, 0,
                 stream, op);
  return cudaGetLastError();
}

template <typename T, int kItems>
cudaError_t launch_races(cudaStream_t stream, const LinearGumbelTopk<T>& op) {
  constexpr auto kernel = projected_race_kernel<T, kItems>;
  IRECGAN_LAUNCH(kernel, grid_of(op.layer.rows), kWarp, 0, stream, op);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_linear(cudaStream_t stream, const LinearGumbelTopk<T>& op) {
  if (op.layer.rows == 0) return cudaSuccess;
  if (op.excluded != nullptr) {
    if (const cudaError_t error = launch_exclusions(stream, op); error != cudaSuccess) return error;
  }
  const cudaError_t error = launch_linear_stats(stream, {op.layer, op.excluded, nullptr, nullptr, op.stats});
  if (error != cudaSuccess) return error;
  constexpr int kPiece = static_cast<int>(16 / sizeof(T));
  return aligned(op.layer) ? launch_races<T, kPiece>(stream, op) : launch_races<T, 1>(stream, op);
}

}  // namespace

cudaError_t launch_linear_gumbel_topk(cudaStream_t stream, const LinearGumbelTopk<float>& op) {
  return launch_linear(stream, op);
}
cudaError_t launch_linear_gumbel_topk(cudaStream_t stream, const LinearGumbelTopk<BFloat16>& op) {
  return launch_linear(stream, op);
}

}  // namespace irecgan::cuda
