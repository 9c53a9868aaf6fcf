// The CUDA rollout on the host, behind a C function for python_tests/test_simt_rollout.py.
#include "../cuda/rollout.cu"

#include <memory>
#include <vector>

#include "../cuda/rollout_small.cu"
#include "../cuda/rollout_steps.cu"
#include "entry.h"

namespace {

using irecgan::cuda::Rollout;

const float* next(const float* const*& pointers) { return *pointers++; }

// Parameters of one model in the order of irecgan_ext.ops.rollout, and its initial states.
void read_model(irecgan::cuda::ModelWeights& model, const float* const*& pointers, int layers, int64_t width,
                int64_t hidden) {
  model.embedding = next(pointers);
  for (int l = 0; l < layers; ++l) {
    irecgan::cuda::Layer& layer = model.layers[l];
    layer.input.weight = next(pointers);
    layer.recurrent.weight = next(pointers);
    layer.input.bias = next(pointers);
    layer.recurrent.bias = next(pointers);
  }
  model.head.weight = next(pointers);
  model.head.bias = next(pointers);
  model.width = width;
  model.hidden = hidden;
}

}  // namespace

extern "C" {

// sizes: model_count, binary, lstm, layers, items, states, count, slate_size, completions, max_steps, share, then
// (width, hidden) of each model. device: the fields of Device. floats: per model its parameters and initial
// states; then score_sums. rows: state_index, symbols, steps, ids, seed. Returns null or what went wrong.
const char* rollout(int reversed, const int64_t* sizes, const int64_t* device, const float* const* floats,
                    const int64_t* const* rows, int64_t* slates, int64_t* clicks, float* rewards, int64_t* lengths,
                    bool* censored, float* scores, float* q, int64_t* work) {
  return simt::outcome(reversed, [&] {
    Rollout op{};
    op.model_count = static_cast<int>(sizes[0]);
    const bool binary = sizes[1] != 0;
    op.lstm = sizes[2] != 0;
    op.layers = static_cast<int>(sizes[3]);
    op.items = sizes[4];
    op.states = sizes[5];
    op.count = sizes[6];
    op.slate_size = sizes[7];
    op.completions = sizes[8];
    op.max_steps = sizes[9];
    op.share = sizes[10] != 0;
    for (int m = 0; m < op.model_count; ++m) {
      read_model(op.models[m], floats, op.layers, sizes[11 + 2 * m], sizes[12 + 2 * m]);
      if (binary && m == irecgan::cuda::kUser) op.reward_query = {next(floats), next(floats)};
      if (binary && m == irecgan::cuda::kDiscriminator) op.reward_factor = {next(floats), next(floats)};
      op.models[m].initial = next(floats);
    }
    op.score_sums = next(floats);
    op.state_index = rows[0];
    op.symbols = rows[1];
    op.steps = rows[2];
    op.key = {rows[3], rows[4], 0, 0};
    std::vector<int64_t> q_sums(static_cast<size_t>(op.count * op.max_steps));
    op.slates = slates;
    op.clicks = clicks;
    op.rewards = rewards;
    op.lengths = lengths;
    op.censored = censored;
    op.scores = scores;
    op.q = q;
    op.work = work;
    op.q_sums = q_sums.data();
    const irecgan::cuda::Device on{static_cast<int>(device[0]), device[1], device[2]};
    // Filled with what would do harm if it were read before it is written; exactly sized for AddressSanitizer.
    const auto bytes = static_cast<size_t>(rollout_scratch_bytes(op, on));
    const std::unique_ptr<char, decltype(&std::free)> scratch(
        static_cast<char*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256)), &std::free);
    std::memset(scratch.get(), 0xA5, bytes);
    launch_rollout(nullptr, op, on, scratch.get());
  });
}

}  // extern "C"
