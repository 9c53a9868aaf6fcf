// irecgan_ext::rollout on the CPU.
#include "../cpu/rollout.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <string>
#include <vector>

#include "rollout_outputs.h"
#include "runtime.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

#define IRECGAN_ROLLOUT_ARGS                                                                                       \
  "(Tensor[] user, Tensor[] agent, Tensor[] discriminator, Tensor user_state, Tensor agent_state, "                \
  "Tensor discriminator_state, Tensor state_index, Tensor symbols, Tensor steps, Tensor rows, Tensor score_sums, " \
  "Tensor seed, str cell, str reward, int slate_size, int completions, int max_steps, bool share)"

std::vector<Tensor> contiguous(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  result.reserve(tensors.size());
  for (const Tensor& t : tensors) result.push_back(dense(t));
  return result;
}

const float* floats(const Tensor& t) { return t.const_data_ptr<float>(); }

cpu::EncoderWeights encoder_weights(const std::vector<Tensor>& p, const Tensor& initial, int64_t layers) {
  cpu::EncoderWeights weights{floats(p[0]), {}, floats(initial), p[0].size(1), p[2].size(1)};
  for (int64_t layer = 0; layer < layers; ++layer) {
    const auto at = static_cast<size_t>(1 + 4 * layer);
    weights.layers.push_back({floats(p[at]), floats(p[at + 1]), floats(p[at + 2]), floats(p[at + 3])});
  }
  return weights;
}

cpu::LinearWeights linear_weights(const std::vector<Tensor>& p, size_t at) {
  return {floats(p[at]), floats(p[at + 1])};
}

RolloutResult rollout(const std::vector<Tensor>& user, const std::vector<Tensor>& agent,
                      const std::vector<Tensor>& discriminator, const Tensor& user_state, const Tensor& agent_state,
                      const Tensor& discriminator_state, const Tensor& state_index, const Tensor& symbols,
                      const Tensor& steps, const Tensor& rows, const Tensor& score_sums, const Tensor& seed,
                      const std::string& cell, const std::string& reward, int64_t slate_size, int64_t completions,
                      int64_t max_steps, bool share) {
  const RolloutSizes sizes =
      check_rollout(user, agent, discriminator, user_state, agent_state, discriminator_state, state_index, symbols,
                    steps, rows, score_sums, seed, cell, reward, slate_size, completions, max_steps);
  const std::vector<Tensor> u = contiguous(user), a = contiguous(agent), d = contiguous(discriminator);
  const std::vector<Tensor> initial = contiguous({user_state, agent_state, discriminator_state});
  const std::vector<Tensor> row_inputs = contiguous({state_index, symbols, steps, rows});
  const Tensor sums = dense(score_sums);
  const auto heads = static_cast<size_t>(1 + 4 * sizes.layers);
  const bool binary = reward == "binary";

  cpu::RolloutModels models{};
  models.cell = cell == "gru" ? cpu::Cell::kGru : cpu::Cell::kLstm;
  models.binary_reward = binary;
  models.items = sizes.items;
  models.states = sizes.states;
  models.user = encoder_weights(u, initial[0], sizes.layers);
  models.click_query = linear_weights(u, heads);
  if (binary) models.reward_query = linear_weights(u, heads + 2);
  models.agent = encoder_weights(a, initial[1], sizes.layers);
  models.head = linear_weights(a, heads);
  models.has_discriminator = !d.empty();
  models.reward_shift = 1.0f;
  if (!d.empty()) {
    models.discriminator = encoder_weights(d, initial[2], sizes.layers);
    models.favourite_query = linear_weights(d, heads);
    if (binary) {
      models.reward_scale = *floats(d[heads + 2]);
      models.reward_shift = *floats(d[heads + 3]);
    }
  }

  RolloutResult result = rollout_outputs(user_state, sizes.rows, max_steps, slate_size, cpu::kPad);
  auto& [slates, clicks, rewards, lengths, censored, scores, q, work] = result;
  const cpu::RolloutRows inputs{sizes.rows,
                                row_inputs[0].const_data_ptr<int64_t>(),
                                row_inputs[1].const_data_ptr<int64_t>(),
                                row_inputs[2].const_data_ptr<int64_t>(),
                                row_inputs[3].const_data_ptr<int64_t>(),
                                floats(sums)};
  const cpu::RolloutOptions options{static_cast<uint64_t>(*seed.const_data_ptr<int64_t>()), slate_size, completions,
                                    max_steps, share};
  cpu::rollout(
      torch_runtime(), models, inputs, options,
      {slates.mutable_data_ptr<int64_t>(), clicks.mutable_data_ptr<int64_t>(), rewards.mutable_data_ptr<float>(),
       lengths.mutable_data_ptr<int64_t>(), censored.mutable_data_ptr<bool>(), scores.mutable_data_ptr<float>(),
       q.mutable_data_ptr<float>(), work.mutable_data_ptr<int64_t>()});
  return result;
}

void check(const std::vector<Tensor>& user, const std::vector<Tensor>& agent, const std::vector<Tensor>& discriminator,
           const Tensor& user_state, const Tensor& agent_state, const Tensor& discriminator_state,
           const Tensor& state_index, const Tensor& symbols, const Tensor& steps, const Tensor& rows,
           const Tensor& score_sums, const Tensor& seed, const std::string& cell, const std::string& reward,
           int64_t slate_size, int64_t completions, int64_t max_steps, bool) {
  check_rollout(user, agent, discriminator, user_state, agent_state, discriminator_state, state_index, symbols, steps,
                rows, score_sums, seed, cell, reward, slate_size, completions, max_steps);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(irecgan_ext, m) {
  m.def("rollout" IRECGAN_ROLLOUT_ARGS " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("check_rollout" IRECGAN_ROLLOUT_ARGS " -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CPU, m) { m.impl("rollout", TORCH_BOX(&rollout)); }

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CompositeExplicitAutograd, m) { m.impl("check_rollout", TORCH_BOX(&check)); }

}  // namespace irecgan
