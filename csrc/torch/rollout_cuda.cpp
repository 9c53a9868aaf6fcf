// irecgan_ext::rollout on CUDA devices. The schema is _C's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <string>
#include <utility>
#include <vector>

#include "../cuda/rollout.h"
#include "cuda_tensors.h"
#include "rollout_outputs.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kScratchBytes = int64_t{1} << 31;
constexpr int64_t kMaxSessions = int64_t{1} << 30;  // of one row at a time

// float32 and contiguous: the tensor itself, or a copy made on the device.
Tensor floats(const Tensor& t) {
  if (t.scalar_type() == ScalarType::Float) return dense(t);
  Tensor copy = torch::stable::new_empty(t, t.sizes(), ScalarType::Float);
  torch::stable::copy_(copy, t);
  return copy;
}

std::vector<Tensor> floats(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  for (const Tensor& t : tensors) result.push_back(floats(t));
  return result;
}

cuda::Linear linear(const std::vector<Tensor>& p, size_t at) {
  return {p[at].const_data_ptr<float>(), p[at + 1].const_data_ptr<float>()};
}

cuda::ModelWeights model_weights(const std::vector<Tensor>& p, const Tensor& initial, int64_t layers) {
  cuda::ModelWeights model{};
  model.embedding = p[0].const_data_ptr<float>();
  for (int64_t l = 0; l < layers; ++l) {
    const auto at = static_cast<size_t>(1 + 4 * l);
    model.layers[l].input = {p[at].const_data_ptr<float>(), p[at + 2].const_data_ptr<float>()};
    model.layers[l].recurrent = {p[at + 1].const_data_ptr<float>(), p[at + 3].const_data_ptr<float>()};
  }
  model.head = linear(p, static_cast<size_t>(1 + 4 * layers));
  model.initial = initial.const_data_ptr<float>();
  model.width = p[0].size(1);
  model.hidden = p[2].size(1);
  return model;
}

cuda::Device device_of(int32_t index) {
  int multiprocessors = 0, shared = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  return {multiprocessors, shared, kScratchBytes};
}

// A model's parameters, on the device of `like`.
void check_model_device(const std::vector<Tensor>& parameters, const std::string& name, const Tensor& like) {
  for (size_t i = 0; i < parameters.size(); ++i)
    check_devices({"user_state", like}, {{(name + "[" + std::to_string(i) + "]").c_str(), parameters[i]}});
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
  check_devices({"user_state", user_state}, {{"agent_state", agent_state},
                                             {"state_index", state_index},
                                             {"symbols", symbols},
                                             {"steps", steps},
                                             {"rows", rows},
                                             {"score_sums", score_sums}});
  check_model_device(user, "user", user_state);
  check_model_device(agent, "agent", user_state);
  check_model_device(discriminator, "discriminator", user_state);
  if (!discriminator.empty()) check_devices({"user_state", user_state}, {{"discriminator_state", discriminator_state}});
  check_seed_device(seed, user_state);
  if (sizes.layers > cuda::kMaxLayers)
    fail("user_state must have at most " + std::to_string(cuda::kMaxLayers) + " layers on CUDA devices, got " +
         std::to_string(sizes.layers));
  if (sizes.states == 0 && sizes.rows > 0)
    fail("user_state must hold at least one state [Z, L, S, H] for rows to start from, got 0");
  if (1 + completions * (max_steps - 1) > kMaxSessions)
    fail("completions must be at most 2^30 / max_steps on CUDA devices, got " + std::to_string(completions));
  const int32_t device = user_state.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);

  const std::vector<Tensor> u = floats(user), a = floats(agent), d = floats(discriminator);
  const std::vector<Tensor> initial = floats({user_state, agent_state, discriminator_state});
  const std::vector<Tensor> starts{dense(state_index), dense(symbols), dense(steps), dense(rows), dense(score_sums)};
  const auto heads = static_cast<size_t>(1 + 4 * sizes.layers);
  const bool binary = reward == "binary";

  cuda::Rollout op{};
  op.models[cuda::kUser] = model_weights(u, initial[0], sizes.layers);
  op.models[cuda::kAgent] = model_weights(a, initial[1], sizes.layers);
  op.model_count = d.empty() ? 2 : 3;
  if (!d.empty()) op.models[cuda::kDiscriminator] = model_weights(d, initial[2], sizes.layers);
  if (binary) op.reward_query = linear(u, heads + 2);
  if (binary && !d.empty()) op.reward_factor = linear(d, heads + 2);
  op.lstm = cell == "lstm";
  op.layers = static_cast<int>(sizes.layers);
  op.items = sizes.items;
  op.states = sizes.states;
  op.count = sizes.rows;
  op.state_index = starts[0].const_data_ptr<int64_t>();
  op.symbols = starts[1].const_data_ptr<int64_t>();
  op.steps = starts[2].const_data_ptr<int64_t>();
  op.score_sums = starts[4].const_data_ptr<float>();
  op.key = noise_key(starts[3], seed, 0);
  op.slate_size = slate_size;
  op.completions = completions;
  op.max_steps = max_steps;
  op.share = share;

  RolloutResult result = rollout_outputs(user_state, sizes.rows, max_steps, slate_size, cuda::kPad);
  auto& [slates, clicks, rewards, lengths, censored, scores, q, work] = result;
  Tensor sums = filled(user_state, {sizes.rows, max_steps}, ScalarType::Long, 0);
  op.slates = slates.mutable_data_ptr<int64_t>();
  op.clicks = clicks.mutable_data_ptr<int64_t>();
  op.rewards = rewards.mutable_data_ptr<float>();
  op.lengths = lengths.mutable_data_ptr<int64_t>();
  op.censored = censored.mutable_data_ptr<bool>();
  op.scores = scores.mutable_data_ptr<float>();
  op.q = q.mutable_data_ptr<float>();
  op.work = work.mutable_data_ptr<int64_t>();
  op.q_sums = sums.mutable_data_ptr<int64_t>();

  const cuda::Device on = device_of(device);
  // Torch's allocator aligns to 512 bytes and orders the memory's reuse after the kernels on this stream.
  Tensor scratch =
      torch::stable::new_empty(user_state, {(cuda::rollout_scratch_bytes(op, on) + 7) / 8}, ScalarType::Long);
  STD_CUDA_CHECK(cuda::launch_rollout(current_stream(user_state), op, on, scratch.mutable_data_ptr<int64_t>()));
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CUDA, m) { m.impl("rollout", TORCH_BOX(&rollout)); }

}  // namespace irecgan
