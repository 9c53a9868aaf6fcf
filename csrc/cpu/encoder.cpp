#include "encoder.h"

#include <algorithm>

namespace irecgan::cpu {
namespace {

constexpr int64_t kChildGrain = 24;    // histories per thread at least: tiles of few rows waste the weights they load
constexpr int64_t kCached = 72 << 10;  // floats of parents' products that are in cache when their children use them
constexpr int64_t kMostChildren = 4;   // times as many children, so that one parent's do not fill the memory

// Up to this many symbols, their input projections are made once per call. A rule of the sizes alone, so that a row's
// rounding does not depend on who else is in the batch.
constexpr int64_t kTableSymbols = 258;

}  // namespace

Encoder::Encoder(const Runtime& runtime, const EncoderWeights& weights, Cell cell, int64_t items, int64_t states)
    : runtime_(runtime),
      weights_(weights),
      cell_(cell),
      layer_count_(static_cast<int64_t>(weights.layers.size())),
      components_(cell == Cell::kGru ? 1 : 2) {
  plane_[0] = states * weights.hidden;
  const int64_t size = components_ * layer_count_ * plane_[0];
  std::copy_n(weights.initial, size, states_[0].reserve(size));
  const int64_t gates = (cell == Cell::kGru ? 3 : 4) * weights.hidden;
  int64_t width = weights.width;
  for (const LayerWeights& layer : weights.layers) {
    input_.emplace_back(runtime, layer.input, layer.input_bias, width, gates);
    recurrent_.emplace_back(runtime, layer.recurrent, layer.recurrent_bias, weights.hidden, gates);
    width = weights.hidden;
  }
  gate_stride_ = recurrent_[0].stride();
  parents_cached_ = std::max(kChildGrain, kCached / gate_stride_);
  const int64_t symbols = items + 2;
  if (symbols > kTableSymbols) return;
  input_[0].apply(runtime, weights.embedding, nullptr, symbols, table_.reserve(symbols * gate_stride_));
}

void Encoder::step(const Histories& histories) {
  const int64_t count = histories.count();
  const int next = 1 - current_;
  plane_[next] = count * weights_.hidden;
  states_[next].reserve(components_ * layer_count_ * plane_[next]);
  for (int64_t layer = 0; layer < layer_count_; ++layer) {
    runtime_.parallel_for(count, kChildGrain, [&](int64_t begin, int64_t end) {
      Products products;
      for (int64_t first = begin; first < end;) first = step_children(layer, histories, first, end, products);
    });
  }
  current_ = next;
}

int64_t Encoder::step_children(int64_t layer, const Histories& histories, int64_t first, int64_t end,
                               Products& products) {
  const Kernels& kernel = kernels();
  const int64_t hidden = weights_.hidden;
  const bool lstm = cell_ == Cell::kLstm;
  const int64_t parents = static_cast<int64_t>(histories.parents().size());
  const int64_t first_parent = histories.child(first).slot;
  const int64_t others = histories.first_child(std::min(parents, first_parent + parents_cached_));
  const int64_t last = std::min({end, others, first + kMostChildren * parents_cached_});
  const int64_t last_parent = histories.child(last - 1).slot + 1;

  const float* recurrent =
      product(recurrent_[static_cast<size_t>(layer)], rows(current_, 0, layer),
              histories.parents().data() + first_parent, last_parent - first_parent, products.recurrent);
  const bool tabulated = layer == 0 && !table_.empty();
  const float* inputs = tabulated ? table_.data() : project_inputs(layer, histories, first, last, products);
  const float* from = rows(current_, lstm ? 1 : 0, layer);  // c or h
  float* to = rows(1 - current_, 0, layer);
  float* to_cell = lstm ? rows(1 - current_, 1, layer) : nullptr;
  for (int64_t at = first; at < last; ++at) {
    const int64_t i = histories.children()[static_cast<size_t>(at)];
    const Node& node = histories.child(at);
    const float* x = inputs + (tabulated ? node.symbol : at - first) * gate_stride_;
    const float* h = recurrent + (node.slot - first_parent) * gate_stride_;
    const float* previous = from + node.parent * hidden;
    if (lstm) {
      kernel.lstm_row(x, h, previous, to + i * hidden, to_cell + i * hidden, hidden);
    } else {
      kernel.gru_row(x, h, previous, to + i * hidden, hidden);
    }
  }
  return last;
}

const float* Encoder::project_inputs(int64_t layer, const Histories& histories, int64_t first, int64_t last,
                                     Products& products) {
  const PackedLinear& input = input_[static_cast<size_t>(layer)];
  if (layer > 0) {
    return product(input, rows(1 - current_, 0, layer - 1), histories.children().data() + first, last - first,
                   products.inputs);
  }
  int64_t* symbols = products.symbols.reserve(last - first);
  for (int64_t at = first; at < last; ++at) symbols[at - first] = histories.child(at).symbol;
  return product(input, weights_.embedding, symbols, last - first, products.inputs);
}

const float* Encoder::product(const PackedLinear& linear, const float* a, const int64_t* index, int64_t rows,
                              Buffer<float>& to) const {
  linear.apply_here(a, index, rows, to.reserve(rows * gate_stride_));
  return to.data();
}

}  // namespace irecgan::cpu
