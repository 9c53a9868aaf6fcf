#include "encoder.h"

#include <algorithm>

namespace irecgan::cpu {
namespace {

constexpr int64_t kRowGrain = 16;

// Buffers only grow: a rollout allocates while its batch grows and never again.
float* reserve(std::vector<float>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
  return buffer.data();
}

}  // namespace

Encoder::Encoder(const Runtime& runtime, const EncoderWeights& weights, Cell cell, int64_t states)
    : runtime_(runtime),
      weights_(weights),
      cell_(cell),
      layer_count_(static_cast<int64_t>(weights.layers.size())),
      gates_(cell == Cell::kGru ? 3 : 4),
      components_(cell == Cell::kGru ? 1 : 2) {
  plane_[0] = states * weights.hidden;
  const int64_t size = components_ * layer_count_ * plane_[0];
  states_[0].assign(weights.initial, weights.initial + size);
  if (cell == Cell::kGru) return;
  for (const LayerWeights& layer : weights.layers) {
    for (int64_t i = 0; i < gates_ * weights.hidden; ++i) {
      lstm_bias_.push_back(layer.input_bias[i] + layer.recurrent_bias[i]);
    }
  }
}

void Encoder::step(const std::vector<Node>& nodes) {
  const auto count = static_cast<int64_t>(nodes.size());
  const int next = 1 - current_;
  plane_[next] = count * weights_.hidden;
  reserve(states_[next], components_ * layer_count_ * plane_[next]);
  gather(nodes);
  const float* input = symbols_.data();
  int64_t width = weights_.width;
  for (int64_t layer = 0; layer < layer_count_; ++layer) {
    step_layer(layer, count, input, width);
    input = rows(next, 0, layer);
    width = weights_.hidden;
  }
  current_ = next;
}

void Encoder::gather(const std::vector<Node>& nodes) {
  const int64_t width = weights_.width;
  float* to = reserve(symbols_, static_cast<int64_t>(nodes.size()) * width);
  parents_.resize(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    parents_[i] = nodes[i].parent;
    std::copy_n(weights_.embedding + nodes[i].symbol * width, width, to + static_cast<int64_t>(i) * width);
  }
}

void Encoder::step_layer(int64_t layer, int64_t nodes, const float* input, int64_t width) {
  const int64_t hidden = weights_.hidden;
  const int64_t gate_width = gates_ * hidden;
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int next = 1 - current_;
  float* previous = reserve(previous_, nodes * hidden);
  float* cell_rows = cell_ == Cell::kLstm ? reserve(cell_rows_, nodes * hidden) : nullptr;
  const float* from = rows(current_, 0, layer);
  const float* from_cell = cell_ == Cell::kLstm ? rows(current_, 1, layer) : nullptr;
  runtime_.parallel_for(nodes, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(from + parents_[static_cast<size_t>(i)] * hidden, hidden, previous + i * hidden);
      if (cell_rows != nullptr)
        std::copy_n(from_cell + parents_[static_cast<size_t>(i)] * hidden, hidden, cell_rows + i * hidden);
    }
  });

  float* projected = reserve(projected_, nodes * gate_width);
  const Kernels& kernel = kernels();
  float* to = rows(next, 0, layer);
  if (cell_ == Cell::kGru) {
    float* recurrent = reserve(recurrent_, nodes * gate_width);
    runtime_.linear(projected, input, w.input, w.input_bias, nodes, width, gate_width);
    runtime_.linear(recurrent, previous, w.recurrent, w.recurrent_bias, nodes, hidden, gate_width);
    runtime_.parallel_for(nodes, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        kernel.gru_row(projected + i * gate_width, recurrent + i * gate_width, previous + i * hidden, to + i * hidden,
                       hidden);
      }
    });
    return;
  }
  float* to_cell = rows(next, 1, layer);
  runtime_.linear(projected, input, w.input, lstm_bias_.data() + layer * gate_width, nodes, width, gate_width);
  runtime_.linear(projected, previous, w.recurrent, nullptr, nodes, hidden, gate_width);
  runtime_.parallel_for(nodes, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernel.lstm_row(projected + i * gate_width, cell_rows + i * hidden, to + i * hidden, to_cell + i * hidden,
                      hidden);
    }
  });
}

}  // namespace irecgan::cpu
