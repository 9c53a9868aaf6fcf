// A thread block makes the logits of 128 rows and two blocks of items, and leaves (max, sum exp) per row and block.
#include "../math/exp.h"
#include "../math/race.h"
#include "launch.h"
#include "linear_stats.h"
#include "logits.h"

namespace irecgan::cuda {
namespace {

static_assert(kWarpColumns == kBlock);

// A row's logits in the four lanes that share it: those that do not count become -inf, the target's is kept.
template <typename T>
__device__ __forceinline__ void row_stats(const LinearStats<T>& op, int64_t row, int64_t block, const TilePlace& place,
                                          float (&logits)[kWarpColumns / 8][2]) {
  const int64_t blocks = block_count(op.layer.items);
  const bool present = row < op.layer.rows && block < blocks;
  // Both from the lane's first column, so that the columns below are constants.
  const int first = place.column_in_warp(0);
  uint64_t excluded = 0;
  if (present && op.excluded != nullptr) excluded = op.excluded[row * blocks + block] >> first;
  int target = -1;
  if (present && op.targets != nullptr) {
    const int64_t inside = op.targets[row] - block * kBlock;
    target = inside >= 0 && inside < kBlock ? static_cast<int>(inside) - first : -1;
  }
  float max = -kInfinity;
#pragma unroll
  for (int n = 0; n < kWarpColumns / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (target == 8 * n + j) op.target_logits[row] = logits[n][j];
      logits[n][j] = excluded >> (8 * n + j) & 1 ? -kInfinity : logits[n][j];
      max = logits[n][j] > max ? logits[n][j] : max;
    }
  }
  max = group_max<4>(max);
  // A block of -inf alone would give -inf - -inf; NaN hides from the comparisons but not from the sum.
  const float shift = max == -kInfinity ? 0.0f : max;
  float sum = 0;
#pragma unroll
  for (int n = 0; n < kWarpColumns / 8; ++n) sum += exp_fast(logits[n][0] - shift) + exp_fast(logits[n][1] - shift);
  sum = group_sum<4>(sum);
  if (present && place.lane % 4 == 0) op.stats[row * blocks + block] = LogitStats<float>{max, sum};
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kTileThreads, kResident<T, kAligned>) linear_stats_kernel(LinearStats<T> op) {
  IRECGAN_DYNAMIC_SHARED(char, shared);
  const TileCorner corner = tile_corner(op.layer.rows);
  const TilePlace place;
  TileSums sums;
  tile_logits<T, kAligned>(op.layer, corner.row, corner.column, shared, place, sums);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float logits[kWarpColumns / 8][2];
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; ++n) {
        logits[n][0] = sums[m][n][2 * half];
        logits[n][1] = sums[m][n][2 * half + 1];
      }
      row_stats(op, corner.row + place.row(m, half), corner.column / kBlock + place.column_group, place, logits);
    }
  }
}

template <typename T, bool kAligned>
cudaError_t launch_stats(cudaStream_t stream, const LinearStats<T>& op) {
  constexpr auto kernel = linear_stats_kernel<T, kAligned>;
  if (const cudaError_t error = allow_shared(kernel, kTileShared); error != cudaSuccess) return error;
  IRECGAN_LAUNCH(kernel, tile_count(op.layer.rows, op.layer.items), kTileThreads, kTileShared, stream, op);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_stats(cudaStream_t stream, const LinearStats<T>& op) {
  if (op.layer.rows == 0 || op.layer.items == 0) return cudaSuccess;
  return aligned(op.layer) ? launch_stats<T, true>(stream, op) : launch_stats<T, false>(stream, op);
}

}  // namespace

cudaError_t launch_linear_stats(cudaStream_t stream, const LinearStats<float>& op) { return launch_stats(stream, op); }
cudaError_t launch_linear_stats(cudaStream_t stream, const LinearStats<BFloat16>& op) {
  return launch_stats(stream, op);
}

}  // namespace irecgan::cuda
