// The exponential race behind Gumbel top-k: item i arrives at E_i / exp(l_i), and the k earliest arrivals, in order,
// are a draw without replacement from softmax(l) (Plackett-Luce). Items race in blocks: the first arrival of a block of
// weight W comes at Exp(1) / W; by memorylessness the next one comes Exp(1) / (what is left of W) later.
#pragma once

#include "exp.h"
#include "log.h"
#include "philox.h"

namespace irecgan {

// Items of a block. The blocks are fixed by the item's index, so that no tiling or sharding changes a sample; 64, so
// that a block's drawn items are one machine word.
constexpr int kBlock = 64;

IRECGAN_HD int64_t block_count(int64_t items) { return (items + kBlock - 1) / kBlock; }

// Uniform behind block b's first arrival, -log(1 - u) / W: one Philox call serves an even block and its neighbour.
IRECGAN_HD double first_uniform(const Stream& s, int64_t block) {
  const Words w = draw(s, Purpose::kArrival, static_cast<uint32_t>(block >> 1));
  return (block & 1) ? uniform(w.w[2], w.w[3]) : uniform(w.w[0], w.w[1]);
}

struct Pick {
  double item;  // uniform that chooses among the block's remaining items
  double gap;   // uniform behind the wait until the block's next arrival, -log(1 - u) / (what is left of W)
};

// The j-th arrival (j = 0, 1, ...) of a block.
IRECGAN_HD Pick arrival_pick(const Stream& s, int64_t block, int j) {
  const Words w = draw(s, Purpose::kPick, static_cast<uint32_t>(block) | static_cast<uint32_t>(j) << 24);
  return Pick{uniform(w.w[0], w.w[1]), uniform(w.w[2], w.w[3])};
}

// log(exp(a) + exp(b)) of finite a, b.
IRECGAN_HD double log_add_exp(double a, double b) {
  const double high = a > b ? a : b;
  const double low = a > b ? b : a;
  return high + log_fast(1.0 + exp_fast(low - high));
}

}  // namespace irecgan
