// linear_stats.cu leaves (max, sum exp) per row and block, and the targets' logits; here a warp adds up a row.
#include "../math/exp.h"
#include "../math/race.h"
#include "launch.h"
#include "linear_log_prob.h"
#include "warp.h"

namespace irecgan::cuda {
namespace {

constexpr int kMergeThreads = 128;

// In double: the blocks of a large catalogue must not add their rounding.
template <typename T>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(LinearLogProb<T> op) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t blocks = block_count(op.layer.items);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kMergeThreads / kWarp);
  int64_t row = (static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x) / kWarp;
  for (; row < op.layer.rows; row += warps) {
    const LogitStats<float>* stats = op.stats + row * blocks;
    float max = -kInfinity;
    for (int64_t b = lane; b < blocks; b += kWarp) max = stats[b].max > max ? stats[b].max : max;
    max = group_max<kWarp>(max);
    const float shift = max == -kInfinity ? 0.0f : max;
    double sum = 0;
    for (int64_t b = lane; b < blocks; b += kWarp)
      sum += static_cast<double>(stats[b].sum) * exp_fast(static_cast<double>(stats[b].max - shift));
    const double log_sum = log(group_sum<kWarp>(sum));
    if (lane != 0) continue;
    const int64_t target = op.targets[row];
    const bool padded = target < 0;
    const float logit = padded || target >= op.layer.items ? __builtin_nanf("") : op.target_logits[row];
    const double log_prob = (static_cast<double>(logit) - static_cast<double>(shift)) - log_sum;
    op.log_prob[row] = padded ? 0.0f : static_cast<float>(log_prob);
    // NaN here makes the gradients NaN too.
    op.log_sum_exp[row] = padded ? 0.0 : (log_prob != log_prob ? log_prob : static_cast<double>(shift) + log_sum);
  }
}

template <typename T>
cudaError_t launch_forward(cudaStream_t stream, const LinearLogProb<T>& op) {
  if (op.layer.rows == 0) return cudaSuccess;
  const cudaError_t error = launch_linear_stats(stream, {op.layer, nullptr, op.targets, op.target_logits, op.stats});
  if (error != cudaSuccess) return error;
  constexpr int64_t kRows = kMergeThreads / kWarp;
  IRECGAN_LAUNCH(merge_kernel<T>, grid_of((op.layer.rows + kRows - 1) / kRows), kMergeThreads, 0, stream, op);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_linear_log_prob(cudaStream_t stream, const LinearLogProb<float>& op) {
  return launch_forward(stream, op);
}
cudaError_t launch_linear_log_prob(cudaStream_t stream, const LinearLogProb<BFloat16>& op) {
  return launch_forward(stream, op);
}

}  // namespace irecgan::cuda
