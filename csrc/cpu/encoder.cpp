#include "encoder.h"

#include <algorithm>

namespace irecgan::cpu {
namespace {

constexpr int64_t kParentGrain = 24;    // parents per thread at least: tiles of few rows waste the weights they load
constexpr int64_t kParentsCached = 96;  // whose products are in cache when their children use them

// Up to this many symbols, their input projections are made once per call. A rule of the sizes alone, so that a row's
// rounding does not depend on who else is in the batch.
constexpr int64_t kTableSymbols = 258;

}  // namespace

Encoder::Encoder(const Runtime& runtime, const EncoderWeights& weights, Cell cell, int64_t items, int64_t states)
    : runtime_(runtime),
      weights_(weights),
      cell_(cell),
      layer_count_(static_cast<int64_t>(weights.layers.size())),
      gate_width_((cell == Cell::kGru ? 3 : 4) * weights.hidden),
      components_(cell == Cell::kGru ? 1 : 2) {
  plane_[0] = states * weights.hidden;
  const int64_t size = components_ * layer_count_ * plane_[0];
  std::copy_n(weights.initial, size, states_[0].reserve(size));
  int64_t width = weights.width;
  for (const LayerWeights& layer : weights.layers) {
    input_.emplace_back(runtime, layer.input, layer.input_bias, width, gate_width_);
    recurrent_.emplace_back(runtime, layer.recurrent, layer.recurrent_bias, weights.hidden, gate_width_);
    width = weights.hidden;
  }
  const int64_t symbols = items + 2;
  if (symbols > kTableSymbols) return;
  input_[0].apply(runtime, weights.embedding, nullptr, symbols, table_.reserve(symbols * gate_width_));
}

void Encoder::step(const Histories& histories, Buffer<float>& scratch) {
  const int64_t count = histories.count();
  const int next = 1 - current_;
  plane_[next] = count * weights_.hidden;
  states_[next].reserve(components_ * layer_count_ * plane_[next]);
  int64_t* symbols = symbols_.reserve(count);
  for (const Node& node : histories.nodes()) *symbols++ = node.symbol;
  for (int64_t layer = 0; layer < layer_count_; ++layer) {
    const Inputs inputs = project_inputs(layer, count, scratch);
    runtime_.parallel_for(
        static_cast<int64_t>(histories.parents().size()), kParentGrain, [&](int64_t begin, int64_t end) {
          Buffer<float> products;
          for (int64_t first = begin; first < end; first += kParentsCached)
            step_children(layer, histories, inputs, first, std::min(end, first + kParentsCached), products);
        });
  }
  current_ = next;
}

Encoder::Inputs Encoder::project_inputs(int64_t layer, int64_t nodes, Buffer<float>& scratch) {
  if (layer == 0 && !table_.empty()) return {table_.data(), symbols_.data()};
  float* to = scratch.reserve(nodes * gate_width_);
  if (layer == 0) {
    input_[0].apply(runtime_, weights_.embedding, symbols_.data(), nodes, to);
  } else {
    input_[static_cast<size_t>(layer)].apply(runtime_, rows(1 - current_, 0, layer - 1), nullptr, nodes, to);
  }
  return {to, nullptr};
}

void Encoder::step_children(int64_t layer, const Histories& histories, Inputs inputs, int64_t first_parent,
                            int64_t last_parent, Buffer<float>& products) {
  const Kernels& kernel = kernels();
  const int64_t hidden = weights_.hidden;
  const bool lstm = cell_ == Cell::kLstm;
  const float* from = rows(current_, lstm ? 1 : 0, layer);  // c or h
  float* to = rows(1 - current_, 0, layer);
  float* to_cell = lstm ? rows(1 - current_, 1, layer) : nullptr;
  float* recurrent = products.reserve((last_parent - first_parent) * gate_width_);
  recurrent_[static_cast<size_t>(layer)].apply_here(rows(current_, 0, layer), histories.parents().data() + first_parent,
                                                    last_parent - first_parent, recurrent);
  for (int64_t at = histories.first_child(first_parent); at < histories.first_child(last_parent); ++at) {
    const int64_t i = histories.children()[static_cast<size_t>(at)];
    const Node& node = histories.nodes()[static_cast<size_t>(i)];
    const float* x = inputs.data + (inputs.index == nullptr ? i : inputs.index[i]) * gate_width_;
    const float* h = recurrent + (node.slot - first_parent) * gate_width_;
    const float* previous = from + node.parent * hidden;
    if (lstm) {
      kernel.lstm_row(x, h, previous, to + i * hidden, to_cell + i * hidden, hidden);
    } else {
      kernel.gru_row(x, h, previous, to + i * hidden, hidden);
    }
  }
}

}  // namespace irecgan::cpu
