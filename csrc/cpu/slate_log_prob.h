// Exact log-probability of a slate that a race drew, from the statistics that the race had. For one instruction set.
#pragma once

#include "block.h"

namespace irecgan::cpu {
namespace {

// sum_j (l_j - log(weight of all items but indices[0..j))) of k distinct items. What is left after the whole slate is
// summed, its items' blocks anew without them, and the slate's own weights are added from the last to the first:
// nothing is subtracted, so the result stays exact when one item dominates. taken [block_count(items)]: 0 before and
// after.
template <typename T, typename Source>
double slate_log_prob(const Source& source, int64_t items, int64_t k, BlockStats<T> stats, const int64_t* indices,
                      uint64_t* taken) {
  for (int64_t j = 0; j < k; ++j) taken[indices[j] / kBlock] |= uint64_t{1} << (indices[j] % kBlock);
  const int64_t blocks = block_count(items);
  const T shift = max_of(stats.shift, blocks);
  double rest = 0;
  Block<T> block;
  for (int64_t b = 0; b < blocks; ++b) {
    T block_shift = stats.shift[b], sum = stats.sum[b];
    if (taken[b] != 0) {
      open_block(source, b, taken[b], block);
      block_shift = block.shift;
      sum = block.sum;
      taken[b] = 0;
    }
    if (sum > 0) rest += static_cast<double>(sum) * exp_fast(static_cast<double>(block_shift - shift));
  }
  // Logarithms from here on: a slate's items may be too improbable for their weights beside the largest one's.
  double log_prob = 0;
  bool any = rest > 0;
  double left = any ? log_fast(rest) : 0.0;
  for (int64_t j = k - 1; j >= 0; --j) {
    const double logit = static_cast<double>(source.logit(indices[j]) - shift);
    left = any ? log_add_exp(left, logit) : logit;
    any = true;
    log_prob += logit - left;
  }
  return log_prob;
}

}  // namespace
}  // namespace irecgan::cpu
