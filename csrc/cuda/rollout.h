// The fused Monte-Carlo rollout on the device: the sessions of csrc/cpu/rollout.h, up to near-ties. Names as in
// irecgan_ext.ops.rollout.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "noise_key.h"

namespace irecgan::cuda {

constexpr int kMaxLayers = 8;
constexpr int kModels = 3;
enum Model : int { kUser = 0, kAgent = 1, kDiscriminator = 2 };

constexpr int64_t kPad = -1;
constexpr int64_t kEnd = -2;
constexpr int64_t kBos = -3;

// All pointers of this file are device memory, contiguous.
struct Linear {
  const float* weight;  // [out, in]
  const float* bias;    // [out]
};

struct Layer {
  Linear input;      // E or H -> G H; G = 3 (GRU) or 4 (LSTM)
  Linear recurrent;  // H -> G H
};

struct ModelWeights {
  const float* embedding;  // [C + 2, E]
  Layer layers[kMaxLayers];
  Linear head;           // user: click query, H -> E; agent: H -> C; discriminator: query of the favourite, H -> E
  const float* initial;  // [Z, L, S, H]; Z = 1 (GRU: h) or 2 (LSTM: h, c)
  int64_t width;         // E
  int64_t hidden;        // H
};

// A session that cannot go on, because a model's output cannot be used or its row's start is out of range, ends at that
// step with click PAD, reward NaN and censored; D's scores that come of it are NaN. Nothing of that can be raised
// without waiting for the device.
struct Rollout {
  ModelWeights models[kModels];
  int model_count;       // 3, or 2 without a discriminator
  Linear reward_query;   // H -> E of the user model; null: rewards are "survival"
  Linear reward_factor;  // 1 -> 1 of the discriminator, W^p and b^p; null likewise
  bool lstm;
  int layers;      // L
  int64_t items;   // C
  int64_t states;  // S

  int64_t count;               // R
  const int64_t* state_index;  // [R] in 0..S-1
  const int64_t* symbols;      // [R] BOS or an item
  const int64_t* steps;        // [R] in 0..W-1
  const float* score_sums;     // [R]

  NoiseKey key;         // rows: [R] global ids; the step is not used, each session has its own
  int64_t slate_size;   // K
  int64_t completions;  // N
  int64_t max_steps;    // W
  bool share;

  int64_t* slates;   // [R, W, K], PAD-filled by the caller
  int64_t* clicks;   // [R, W], PAD-filled
  float* rewards;    // [R, W], zeroed
  int64_t* lengths;  // [R], zeroed
  bool* censored;    // [R], false
  float* scores;     // [R], zeroed
  float* q;          // [R, W]
  int64_t* work;     // [4], zeroed
  int64_t* q_sums;   // [R, W] scratch, zeroed
};

// What of the device decides how a rollout is launched.
struct Device {
  int multiprocessors;
  int64_t shared_bytes;   // that a thread block can have
  int64_t scratch_bytes;  // to stay below, where the sizes leave a choice
};

// Bytes of scratch that launch_rollout needs, for the same arguments.
int64_t rollout_scratch_bytes(const Rollout& op, const Device& device);

// Asynchronous; the launches depend on sizes alone, never on what the sessions do. scratch: 256-byte aligned.
cudaError_t launch_rollout(cudaStream_t stream, const Rollout& op, const Device& device, void* scratch);

// The two ways to play. Small models: one persistent kernel, weights and states in shared memory (rollout_small.cu).
bool fits_small(const Rollout& op, const Device& device);
int64_t small_scratch_bytes(const Rollout& op);
cudaError_t launch_small(cudaStream_t stream, const Rollout& op, const Device& device, void* scratch);
// Any models: a fixed sequence of kernels per step (rollout_steps.cu).
int64_t steps_scratch_bytes(const Rollout& op, const Device& device);
cudaError_t launch_steps(cudaStream_t stream, const Rollout& op, const Device& device, void* scratch);

}  // namespace irecgan::cuda
