// Recurrent states of the distinct click histories of one rollout step, for one model.
#pragma once

#include <vector>

#include "rollout.h"

namespace irecgan::cpu {

// A distinct click history: the state it continues and the symbol it consumes next.
struct Node {
  int64_t parent;  // row of the previous states
  int64_t symbol;  // row of the embedding
};

class Encoder {
 public:
  Encoder(const Runtime& runtime, const EncoderWeights& weights, Cell cell, int64_t states);

  // Replaces the states by those of `nodes`.
  void step(const std::vector<Node>& nodes);

  int64_t hidden() const { return weights_.hidden; }

  // [nodes, H], the top layer's h.
  const float* output() const { return states_[current_].data() + (layer_count_ - 1) * plane_[current_]; }

 private:
  // Rows of layer `l`'s component `z` (0: h, 1: c) in buffer `b`.
  float* rows(int b, int64_t z, int64_t l) { return states_[b].data() + (z * layer_count_ + l) * plane_[b]; }
  void gather(const std::vector<Node>& nodes);
  void step_layer(int64_t layer, int64_t nodes, const float* input, int64_t width);

  const Runtime& runtime_;
  const EncoderWeights& weights_;
  const Cell cell_;
  const int64_t layer_count_;
  const int64_t gates_;       // 3 or 4
  const int64_t components_;  // Z
  int current_ = 0;
  std::vector<float> states_[2];  // [Z, L, nodes, H]: this step's and the previous one's
  int64_t plane_[2] = {0, 0};     // nodes * H of each buffer
  std::vector<float> symbols_;    // [nodes, E]
  std::vector<float> previous_;   // [nodes, H] gathered h of one layer
  std::vector<float> cell_rows_;  // [nodes, H] gathered c of one layer
  std::vector<float> projected_;  // [nodes, G H]
  std::vector<float> recurrent_;  // [nodes, 3 H], GRU only
  std::vector<float> lstm_bias_;  // [L, 4 H], both biases summed
  std::vector<int64_t> parents_;
};

}  // namespace irecgan::cpu
