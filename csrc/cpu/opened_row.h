// Projected rows whose winning blocks were projected again for all rows together: weights come from memory once for
// many rows. For one instruction set.
#pragma once

#include "projection.h"
#include "slate_log_prob.h"

namespace irecgan::cpu {
namespace {

// Column `item` of logits[j], j < count <= 4, of a block that begins with item `first`.
template <int64_t kRows>
inline void open_item(const Projection& p, int64_t first, int64_t item, int64_t count, const float* const* hidden,
                      float* const* logits) {
  if constexpr (kRows > 1) {
    if (count < kRows) return open_item<kRows - 1>(p, first, item, count, hidden, logits);
  }
  float column[kRows];
  project_item<kRows>(p, first + item, hidden, column);
  for (int64_t r = 0; r < kRows; ++r) logits[r][item] = column[r];
}

// logits[j] [kBlock] = those of row rows[j], j < count, of one block.
inline void open_projected_block(const Projection& p, const float* hidden, const int64_t* rows, int64_t count,
                                 int64_t block, float* const* logits) {
  constexpr int64_t kTogether = 4;
  const int64_t first = block * kBlock;
  const int64_t n = first + kBlock <= p.items ? kBlock : p.items - first;
  const bool another = first + 2 * kBlock <= p.items;
  for (int64_t i = 0; i < n; ++i) {
    const float* ahead = p.weight + (first + kBlock + i) * p.width;
    for (int64_t h = 0; another && h < p.width; h += kLineFloats) __builtin_prefetch(ahead + h, 0, 2);
    for (int64_t j = 0; j < count; j += kTogether) {
      const int64_t some = j + kTogether <= count ? kTogether : count - j;
      const float* states[kTogether];
      for (int64_t r = 0; r < some; ++r) states[r] = hidden + rows[j + r] * p.width;
      open_item<kTogether>(p, first, i, some, states, logits + j);
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = n; i < kBlock; ++i) logits[j][i] = -kInfinity;
    exclude_items(p, rows[j], block, logits[j]);
  }
}

// An opened row as the source of its blocks.
struct OpenedSource {
  const OpenedRow& row;

  const float* logits(int64_t block) const {
    int64_t low = 0;
    for (int64_t high = row.count - 1; low < high;) {
      const int64_t middle = (low + high) / 2;
      if (row.blocks[middle] < block)
        low = middle + 1;
      else
        high = middle;
    }
    return row.logits + low * kBlock;
  }

  float logit(int64_t item) const { return logits(item / kBlock)[item % kBlock]; }
  void read(int64_t block, float* left) const { std::memcpy(left, logits(block), kBlock * sizeof(float)); }
};

inline int64_t opened_race(const OpenedRow& row, int64_t k, const Stream& stream, Arrival* arrivals, float* values,
                           int64_t* indices) {
  return race_from(OpenedSource{row}, row.count, k, stream, arrivals, values, indices);
}

inline double opened_log_prob(const OpenedRow& row, int64_t items, int64_t k, BlockStats<float> stats,
                              const int64_t* indices, uint64_t* taken) {
  return slate_log_prob(OpenedSource{row}, items, k, stats, indices, taken);
}

}  // namespace
}  // namespace irecgan::cpu
