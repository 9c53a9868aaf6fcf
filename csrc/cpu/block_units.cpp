#include "block_units.h"

#include <cmath>

namespace irecgan::cpu {

// In block order and double: the blocks of a large catalogue must not add their rounding.
double log_sum_exp(int64_t blocks, BlockStats<float> stats) {
  double largest = -INFINITY;
  for (int64_t b = 0; b < blocks; ++b) {
    if (stats.sum[b] > 0) largest = std::max(largest, static_cast<double>(stats.shift[b]));
  }
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    if (stats.sum[b] != 0) sum += static_cast<double>(stats.sum[b]) * std::exp(stats.shift[b] - largest);
  }
  return largest + std::log(sum);
}

}  // namespace irecgan::cpu
