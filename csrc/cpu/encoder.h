// Recurrent states of the distinct click histories of one rollout step, for one model.
#pragma once

#include <vector>

#include "buffer.h"
#include "histories.h"
#include "matmul.h"
#include "rollout.h"

namespace irecgan::cpu {

class Encoder {
 public:
  Encoder(const Runtime& runtime, const EncoderWeights& weights, Cell cell, int64_t items, int64_t states);

  // Replaces the states by those of the histories. scratch: work space that all models may share.
  void step(const Histories& histories, Buffer<float>& scratch);

  int64_t hidden() const { return weights_.hidden; }

  // [nodes, H], the top layer's h.
  const float* output() const { return states_[current_].data() + (layer_count_ - 1) * plane_[current_]; }

 private:
  // Where the input projections of a layer lie: row index[i] (i where null) of data belongs to node i.
  struct Inputs {
    const float* data;
    const int64_t* index;
  };

  // Rows of layer `l`'s component `z` (0: h, 1: c) in buffer `b`.
  float* rows(int b, int64_t z, int64_t l) { return states_[b].data() + (z * layer_count_ + l) * plane_[b]; }
  Inputs project_inputs(int64_t layer, int64_t nodes, Buffer<float>& scratch);
  // Steps the children of parents first_parent..last_parent - 1. products: work space.
  void step_children(int64_t layer, const Histories& histories, Inputs inputs, int64_t first_parent,
                     int64_t last_parent, Buffer<float>& products);

  const Runtime& runtime_;
  const EncoderWeights& weights_;
  const Cell cell_;
  const int64_t layer_count_;
  const int64_t gate_width_;  // G H
  const int64_t components_;  // Z
  int current_ = 0;
  std::vector<PackedLinear> input_;      // [L]
  std::vector<PackedLinear> recurrent_;  // [L]
  Buffer<float> table_;                  // [C + 2, G H] input projections of layer 0 by symbol; empty if C is large
  Buffer<float> states_[2];              // [Z, L, nodes, H]: this step's and the previous one's
  int64_t plane_[2] = {0, 0};            // nodes * H of each buffer
  Buffer<int64_t> symbols_;              // [nodes]
};

}  // namespace irecgan::cpu
