// The choice between the two ways to play a rollout, and q_D from the sums of its completions.
#include "launch.h"
#include "rollout.h"
#include "rollout_play.h"

namespace irecgan::cuda {
namespace {

constexpr int kMeanThreads = 256;

__global__ void __launch_bounds__(kMeanThreads) mean_scores_kernel(Rollout op) {
  const int64_t size = op.count * op.max_steps;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kMeanThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kMeanThreads) {
    const int64_t row = i / op.max_steps, last = op.lengths[row] - 1, at = i - row * op.max_steps;
    float q = at == last ? op.scores[row] : 0.0f;
    if (at < last && op.completions > 0) {
      q = op.q_sums[i] < 0 ? __builtin_nanf("")
                           : static_cast<float>(static_cast<double>(op.q_sums[i]) * kScoreUnit /
                                                static_cast<double>(op.completions));
    }
    op.q[i] = q;
  }
}

bool is_small(const Rollout& op, const Device& device) { return op.share && fits_small(op, device); }

}  // namespace

int64_t rollout_scratch_bytes(const Rollout& op, const Device& device) {
  return is_small(op, device) ? small_scratch_bytes(op) : steps_scratch_bytes(op, device);
}

cudaError_t launch_rollout(cudaStream_t stream, const Rollout& op, const Device& device, void* scratch) {
  if (op.count == 0) return cudaSuccess;
  const cudaError_t error =
      is_small(op, device) ? launch_small(stream, op, device, scratch) : launch_steps(stream, op, device, scratch);
  if (error != cudaSuccess) return error;
  const int64_t blocks = (op.count * op.max_steps + kMeanThreads - 1) / kMeanThreads;
  const int64_t limit = 8 * static_cast<int64_t>(device.multiprocessors);
  IRECGAN_LAUNCH(mean_scores_kernel, static_cast<unsigned>(blocks < limit ? blocks : limit), kMeanThreads, 0, stream,
                 op);
  return cudaGetLastError();
}

}  // namespace irecgan::cuda
