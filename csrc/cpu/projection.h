// Projection of a block of items with its statistics as the epilogue: the logits stay in registers and one small tile.
#pragma once

#include "block.h"
#include "gumbel_topk.h"
#include "packed_linear.h"

namespace irecgan::cpu {
namespace {

#if defined(__AVX512F__)
typedef float Row16 __attribute__((vector_size(64)));

// v[h][i] = from[i * stride + h] for a square of 16 x 16.
inline void load_transposed(const float* from, int64_t stride, Row16 (&v)[16]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) std::memcpy(&v[i], from + i * stride, sizeof v[i]);
  // Four rounds swap halves, quarters, eighths and neighbours of row pairs: rows 8, 4, 2 and 1 apart.
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const Row16 a = v[i], b = v[i + 8];
    v[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    v[i + 8] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const int i = (j / 4) * 8 + j % 4;
    const Row16 a = v[i], b = v[i + 4];
    v[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    v[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const int i = (j / 2) * 4 + j % 2;
    const Row16 a = v[i], b = v[i + 2];
    v[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    v[i + 2] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const Row16 a = v[2 * j], b = v[2 * j + 1];
    v[2 * j] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    v[2 * j + 1] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
}

// to[h * to_stride + i] = from[i * stride + h] for a square of 16 x 16.
inline void transpose_square(const float* from, int64_t stride, float* to, int64_t to_stride) {
  Row16 v[16];
  load_transposed(from, stride, v);
#pragma GCC unroll 16
  for (int h = 0; h < 16; ++h) std::memcpy(to + h * to_stride, &v[h], sizeof v[h]);
}
#else
inline void transpose_square(const float* from, int64_t stride, float* to, int64_t to_stride) {
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t h = 0; h < 16; ++h) to[h * to_stride + i] = from[i * stride + h];
  }
}
#endif

// to [n, m], rows `to_stride` apart = the transpose of from [m, n], rows `stride` apart.
inline void transpose(const float* from, int64_t stride, int64_t m, int64_t n, float* to, int64_t to_stride) {
  constexpr int64_t kSquare = 16;
  const int64_t whole_m = m / kSquare * kSquare, whole_n = n / kSquare * kSquare;
  for (int64_t i = 0; i < whole_m; i += kSquare) {
    for (int64_t h = 0; h < whole_n; h += kSquare) {
      transpose_square(from + i * stride + h, stride, to + h * to_stride + i, to_stride);
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t h = i < whole_m ? whole_n : 0; h < n; ++h) to[h * to_stride + i] = from[i * stride + h];
  }
}

// panel [H, kBlock]: the block's weights with the item innermost, absent items 0.
inline void pack_block(const Projection& p, int64_t block, float* panel) {
  const int64_t first = block * kBlock;
  const int64_t present = first + kBlock <= p.items ? kBlock : p.items - first;
  transpose(p.weight + first * p.width, p.width, present, p.width, panel, kBlock);
  for (int64_t h = 0; present < kBlock && h < p.width; ++h) {
    for (int64_t i = present; i < kBlock; ++i) panel[h * kBlock + i] = 0.0f;
  }
}

// Logits that the items of a block begin with: their biases, -inf for absent ones.
inline void block_bias(const Projection& p, int64_t block, float* bias) {
  const int64_t first = block * kBlock;
  const int64_t present = first + kBlock <= p.items ? kBlock : p.items - first;
  for (int64_t i = 0; i < present; ++i) bias[i] = p.bias == nullptr ? 0.0f : p.bias[first + i];
  for (int64_t i = present; i < kBlock; ++i) bias[i] = -kInfinity;
}

inline void exclude_items(const Projection& p, int64_t row, int64_t block, float* logits) {
  if (p.excluded == nullptr) return;
  for (uint64_t rest = p.excluded[row * block_count(p.items) + block]; rest != 0; rest &= rest - 1) {
    logits[__builtin_ctzll(rest)] = -kInfinity;
  }
}

#if defined(__AVX512F__)
constexpr int64_t kFewRows = 4;

// Logits [kRows, kBlock] of a whole block, for so few rows that a packed block would be read but once: the weights are
// transposed in registers. Sums in the order of tile.
template <int64_t kRows>
inline void project_few(const Projection& p, const float* hidden, int64_t block, const float* bias, float* logits) {
  constexpr int64_t kSquare = 16;
  const int64_t whole = p.width / kSquare * kSquare;
  for (int64_t i = 0; i < kBlock; i += kSquare) {
    const float* weight = p.weight + (block * kBlock + i) * p.width;
    const bool another = block * kBlock + i + 2 * kSquare <= p.items;
    Row16 sum[kRows];
    for (int64_t r = 0; r < kRows; ++r) std::memcpy(&sum[r], bias + i, sizeof sum[r]);
    for (int64_t h = 0; h < whole; h += kSquare) {
      for (int64_t j = 0; another && j < kSquare; ++j) __builtin_prefetch(weight + (kSquare + j) * p.width + h, 0, 2);
      Row16 v[kSquare];
      load_transposed(weight + h, p.width, v);
#pragma GCC unroll 16
      for (int64_t j = 0; j < kSquare; ++j) {
        for (int64_t r = 0; r < kRows; ++r) sum[r] += hidden[r * p.width + h + j] * v[j];
      }
    }
    for (int64_t h = whole; h < p.width; ++h) {
      Row16 w;
      for (int64_t j = 0; j < kSquare; ++j) w[j] = weight[j * p.width + h];
      for (int64_t r = 0; r < kRows; ++r) sum[r] += hidden[r * p.width + h] * w;
    }
    for (int64_t r = 0; r < kRows; ++r) std::memcpy(logits + r * kBlock + i, &sum[r], sizeof sum[r]);
  }
}

// False if there are too many rows, or a packed block at hand.
inline bool projected_few(const Projection& p, const float* hidden, int64_t count, int64_t block, const float* bias,
                          float* logits) {
  if (p.panels != nullptr || count > kFewRows || (block + 1) * kBlock > p.items) return false;
  if (count == 1) project_few<1>(p, hidden, block, bias, logits);
  if (count == 2) project_few<2>(p, hidden, block, bias, logits);
  if (count == 3) project_few<3>(p, hidden, block, bias, logits);
  if (count == 4) project_few<4>(p, hidden, block, bias, logits);
  return true;
}
#else
inline bool projected_few(const Projection&, const float*, int64_t, int64_t, const float*, float*) { return false; }
#endif

// Logits of one block's items for rows begin..end - 1, row by row to epilogue(row, logits [kBlock]).
template <typename Epilogue>
inline void project_rows(const Projection& p, const float* hidden, int64_t begin, int64_t end, int64_t block,
                         float* panel, Epilogue epilogue) {
  static_assert(kBlock % kPanel == 0);
  float bias[kBlock], logits[kTileRows * kBlock];
  block_bias(p, block, bias);
  if (projected_few(p, hidden + begin * p.width, end - begin, block, bias, logits)) {
    for (int64_t row = begin; row < end; ++row) epilogue(row, logits + (row - begin) * kBlock);
    return;
  }
  if (p.panels == nullptr) pack_block(p, block, panel);
  const float* const weights = p.panels == nullptr ? panel : p.panels + block * kBlock * p.width;
  // The next block's weights come from memory while this one's are multiplied: by the first tile alone if there are
  // few.
  constexpr int64_t kLines = kBlock * sizeof(float) / 64;  // of a block, per inner step
  const bool few = end - begin < kLines * kTileRows;
  const int64_t ahead_end = (block + 2) * kBlock <= p.items ? (few ? 1 : kLines) : 0;
  const float* ahead = (p.panels == nullptr ? p.weight : p.panels) + (block + 1) * kBlock * p.width;
  for (int64_t first = begin; first < end; first += kTileRows) {
    const int64_t count = first + kTileRows <= end ? kTileRows : end - first;
    const int64_t number = (first - begin) / kTileRows;
    const float* rows[kTileRows];
    for (int64_t r = 0; r < count; ++r) rows[r] = hidden + (first + r) * p.width;
    for (int64_t i = 0; i < kBlock; i += kPanel) {
      if (i > 0 || number >= ahead_end) {
        tile_of<kBlock>(count, rows, p.width, weights + i, bias + i, logits + i, kBlock);
      } else if (few) {
        tile_of<kBlock, kLines>(count, rows, p.width, weights + i, bias + i, logits + i, kBlock, ahead);
      } else {
        tile_of<kBlock, 1>(count, rows, p.width, weights + i, bias + i, logits + i, kBlock,
                           ahead + number * p.width * kLineFloats);
      }
    }
    for (int64_t r = 0; r < count; ++r) epilogue(first + r, logits + r * kBlock);
  }
}

inline void project_block(const Projection& p, const float* hidden, int64_t begin, int64_t end, int64_t block,
                          BlockStats<float> stats, float* panel) {
  const int64_t blocks = block_count(p.items);
  project_rows(p, hidden, begin, end, block, panel, [&](int64_t row, float* logits) {
    exclude_items(p, row, block, logits);
    exact_block_stats(logits, stats.shift + row * blocks + block, stats.sum + row * blocks + block);
  });
}

// Logits of one item for kRows rows, side by side: sums of products wait for themselves. These sums run in another
// order than those of project_rows: the logits agree up to rounding.
template <int64_t kRows>
inline void project_item(const Projection& p, int64_t item, const float* const* hidden, float* logits) {
  constexpr int64_t kWide = kLanes<float>;
  typedef float Wide __attribute__((vector_size(kWide * sizeof(float)), aligned(alignof(float)), may_alias));
  const int64_t whole = p.width / kWide * kWide;
  const float* weights = p.weight + item * p.width;
  Wide lanes[kRows] = {};
  for (int64_t h = 0; h < whole; h += kWide) {
    const Wide w = *reinterpret_cast<const Wide*>(weights + h);
    for (int64_t r = 0; r < kRows; ++r) lanes[r] += w * *reinterpret_cast<const Wide*>(hidden[r] + h);
  }
  for (int64_t r = 0; r < kRows; ++r) {
    float sum = fold(reinterpret_cast<float*>(&lanes[r]));
    for (int64_t h = whole; h < p.width; ++h) sum += weights[h] * hidden[r][h];
    logits[r] = p.bias == nullptr ? sum : p.bias[item] + sum;
  }
}

// A projected row while its blocks' exact weights are known and their logits are not.
struct KnownWeights {
  static constexpr float kExcess = 0;

  BlockWeight<float> weigh(int64_t index, BlockStats<float> stats) const {
    return {stats.shift[index], stats.sum[index]};
  }
};

inline int64_t projected_arrivals(int64_t items, int64_t k, BlockStats<float> stats, const Stream& stream,
                                  RaceScratch scratch) {
  return first_arrivals(KnownWeights{}, block_count(items), k, stats, stream, scratch);
}

}  // namespace
}  // namespace irecgan::cpu
