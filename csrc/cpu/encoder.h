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

  // Replaces the states by those of the histories.
  void step(const Histories& histories);

  int64_t hidden() const { return weights_.hidden; }

  // [nodes, H], the top layer's h.
  const float* output() const { return states_[current_].data() + (layer_count_ - 1) * plane_[current_]; }

 private:
  // Work space of one thread: of some histories' parents and of their own inputs.
  struct Products {
    Buffer<float> recurrent;  // [parents, G H], these rows gate_stride_ apart
    Buffer<float> inputs;     // [children, G H], likewise
    Buffer<int64_t> symbols;  // [children]
  };

  // Rows of layer `l`'s component `z` (0: h, 1: c) in buffer `b`.
  float* rows(int b, int64_t z, int64_t l) { return states_[b].data() + (z * layer_count_ + l) * plane_[b]; }
  // Steps children first.. of those up to end: those of parents_cached_ parents, or the first of them if they are very
  // many. A parent of children before `first` is computed again. Returns where the next ones begin.
  int64_t step_children(int64_t layer, const Histories& histories, int64_t first, int64_t end, Products& products);
  // Products::inputs of children first..last - 1.
  const float* project_inputs(int64_t layer, const Histories& histories, int64_t first, int64_t last,
                              Products& products);
  const float* product(const PackedLinear& linear, const float* a, const int64_t* index, int64_t rows,
                       Buffer<float>& to) const;

  const Runtime& runtime_;
  const EncoderWeights& weights_;
  const Cell cell_;
  const int64_t layer_count_;
  const int64_t components_;    // Z
  int64_t gate_stride_ = 0;     // distance of the rows of a layer's products, G H in whole panels
  int64_t parents_cached_ = 0;  // whose products are made together
  int current_ = 0;
  std::vector<PackedLinear> input_;      // [L]
  std::vector<PackedLinear> recurrent_;  // [L]
  Buffer<float> table_;        // [C + 2, G H], likewise: input projections of layer 0 by symbol; empty if C is large
  Buffer<float> states_[2];    // [Z, L, nodes, H]: this step's and the previous one's
  int64_t plane_[2] = {0, 0};  // nodes * H of each buffer
};

}  // namespace irecgan::cpu
