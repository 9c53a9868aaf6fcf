// The fused Monte-Carlo rollout: agent and user model against each other until every session has ended (SPEC names as
// in irecgan_ext.ops.rollout). Raw pointers only.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "runtime.h"

namespace irecgan::cpu {

enum class Cell { kGru, kLstm };

struct LayerWeights {
  const float* input;           // [G H, E or H]; G = 3 (GRU) or 4 (LSTM)
  const float* recurrent;       // [G H, H]
  const float* input_bias;      // [G H]
  const float* recurrent_bias;  // [G H]
};

struct EncoderWeights {
  const float* embedding;  // [C + 2, E]
  std::vector<LayerWeights> layers;
  const float* initial;  // [Z, L, S, H]; Z = 1 (GRU: h) or 2 (LSTM: h, c)
  int64_t width;         // E
  int64_t hidden;        // H
};

struct LinearWeights {
  const float* weight;  // [out, in]
  const float* bias;    // [out]
};

struct RolloutModels {
  Cell cell;
  bool binary_reward;  // else survival
  int64_t items;       // C
  int64_t states;      // S
  EncoderWeights user;
  LinearWeights click_query;   // H -> E
  LinearWeights reward_query;  // H -> E; binary only
  EncoderWeights agent;
  LinearWeights head;  // H -> C
  bool has_discriminator;
  EncoderWeights discriminator;
  LinearWeights favourite_query;  // H -> E
  float reward_scale;             // W^p, b^p; survival: 0, 1
  float reward_shift;
};

struct RolloutRows {
  int64_t count;               // R
  const int64_t* state_index;  // [R] in 0..S-1
  const int64_t* symbols;      // [R] BOS or an item
  const int64_t* steps;        // [R]
  const int64_t* ids;          // [R]
  const float* score_sums;     // [R]
};

struct RolloutOptions {
  uint64_t seed;
  int64_t slate_size;   // K
  int64_t completions;  // N
  int64_t max_steps;    // W
  bool share;
};

struct RolloutOutputs {
  int64_t* slates;   // [R, W, K], PAD-filled by the caller
  int64_t* clicks;   // [R, W], PAD-filled
  float* rewards;    // [R, W], zeroed
  int64_t* lengths;  // [R], zeroed
  bool* censored;    // [R], false
  float* scores;     // [R], zeroed
  float* q;          // [R, W], zeroed
  int64_t* work;     // [4] row steps, distinct states, projected rows, iterations
};

constexpr int64_t kPad = -1;
constexpr int64_t kEnd = -2;
constexpr int64_t kBos = -3;

// Throws std::runtime_error if an agent's logits hold NaN, +inf or fewer than K finite entries, or what the user model
// or the discriminator says of a slate is not finite.
void rollout(const Runtime& runtime, const RolloutModels& models, const RolloutRows& rows,
             const RolloutOptions& options, const RolloutOutputs& out);

}  // namespace irecgan::cpu
