// Weights of the persistent rollout kernel, made at the start of each call: transposed for coalesced reads, embeddings
// multiplied into what they meet.
#pragma once

#include "launch.h"
#include "rollout_small_plan.h"

namespace irecgan::cuda {

constexpr int kPackThreads = 256;
constexpr int kMaxPieces = 16;

// out[i, j] = bias[i, j] + sum over k of a[i, k] b[k, j], for i < rows, j < columns; each with strides of its own.
struct Piece {
  float* out;
  int32_t out_row, rows, columns;
  const float* a;
  int32_t a_row, a_inner;
  const float* b;
  int32_t b_inner, b_column, inner;
  const float* bias;  // or null
  int32_t bias_row, bias_column;
};

struct Pieces {
  Piece piece[kMaxPieces];
  int count = 0;

  void add(const Piece& p) { piece[count++] = p; }
};

static __global__ void __launch_bounds__(kPackThreads) pack_kernel(Pieces pieces) {
  const Piece& p = pieces.piece[blockIdx.y];
  for (int i = static_cast<int>(blockIdx.x * kPackThreads + threadIdx.x); i < p.rows * p.columns;
       i += static_cast<int>(gridDim.x) * kPackThreads) {
    const int row = i / p.columns, column = i % p.columns;
    float sum = p.bias == nullptr ? 0.0f : p.bias[row * p.bias_row + column * p.bias_column];
    for (int k = 0; k < p.inner; ++k)
      sum += p.a[row * p.a_row + k * p.a_inner] * p.b[k * p.b_inner + column * p.b_column];
    p.out[row * p.out_row + column] = sum;
  }
}

// weight [out, in] and bias [out] transposed; rows between `in` and the packed width are left at 0.
inline void pack_linear(Pieces& pieces, const Packed& to, const Linear& from, int32_t in) {
  pieces.add({to.global, to.columns, in, to.columns, nullptr, 0, 0, nullptr, 0, 0, 0, from.weight, 1, in});
  pieces.add({to.global + static_cast<int64_t>(to.inner) * to.columns, to.columns, 1, to.columns, nullptr, 0, 0,
              nullptr, 0, 0, 0, from.bias, 0, 1});
}

// The products of `candidates` embeddings with a query of the state, as one linear layer of the state: e_j W and e_j .
// b, to the columns from `first` on.
inline void pack_folded(Pieces& pieces, const Packed& to, int32_t first, const ModelWeights& model, const Linear& query,
                        int32_t candidates) {
  const auto width = static_cast<int32_t>(model.width), hidden = static_cast<int32_t>(model.hidden);
  pieces.add({to.global + first, to.columns, hidden, candidates, query.weight, 1, hidden, model.embedding, 1, width,
              width, nullptr, 0, 0});
  pieces.add({to.global + static_cast<int64_t>(to.inner) * to.columns + first, to.columns, 1, candidates, query.bias, 0,
              1, model.embedding, 1, width, width, nullptr, 0, 0});
}

inline cudaError_t pack(cudaStream_t stream, const SmallPlan& plan, int which) {
  const Rollout& op = plan.op;
  const ModelWeights& from = op.models[which];
  const SmallModel& to = plan.models[which];
  const auto width = static_cast<int32_t>(from.width), items = static_cast<int32_t>(op.items);
  const int32_t gates = (op.lstm ? 4 : 3) * to.hidden;
  Pieces pieces;
  pieces.add({to.table, gates, items + 2, gates, from.embedding, width, 1, from.layers[0].input.weight, 1, width, width,
              from.layers[0].input.bias, 0, 1});
  for (int l = 0; l < op.layers; ++l) {
    pack_linear(pieces, to.recurrent[l], from.layers[l].recurrent, to.hidden);
    if (l > 0) pack_linear(pieces, to.input[l], from.layers[l].input, to.hidden);
  }
  if (which == kAgent) {
    pack_linear(pieces, to.head, from.head, to.hidden);
  } else {
    pack_folded(pieces, to.head, 0, from, from.head, items + 1);
  }
  if (which == kUser && op.reward_query.weight != nullptr)
    pack_folded(pieces, to.head, items + 1, from, op.reward_query, items + 1);
  if (which == kDiscriminator)
    pieces.add({plan.matches, items + 1, items + 1, items + 1, from.embedding, width, 1, from.embedding, 1, width,
                width, nullptr, 0, 0});
  const dim3 grid(16, static_cast<unsigned>(pieces.count));
  IRECGAN_LAUNCH(pack_kernel, grid, kPackThreads, 0, stream, pieces);
  return cudaGetLastError();
}

}  // namespace irecgan::cuda
