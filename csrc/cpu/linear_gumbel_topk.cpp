#include "linear_gumbel_topk.h"

#include <algorithm>
#include <cmath>

namespace irecgan::cpu {
namespace {

constexpr int64_t kMostRows = 504;  // of a unit of work: their states, and a block's packed weights, stay in cache
constexpr int64_t kRowsStep = 6;    // rows that the product takes at a time
constexpr int64_t kPanelsAhead = 4;

double logsumexp(int64_t blocks, BlockStats<float> stats) {
  float max = -INFINITY;
  for (int64_t b = 0; b < blocks; ++b) max = stats.sum[b] > 0 ? std::max(max, stats.shift[b]) : max;
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    if (stats.sum[b] > 0)
      sum += static_cast<double>(stats.sum[b]) * std::exp(static_cast<double>(stats.shift[b] - max));
  }
  return static_cast<double>(max) + std::log(sum);
}

}  // namespace

void project_stats(const Runtime& runtime, const Projection& projection, const float* hidden, int64_t count,
                   BlockStats<float> stats) {
  const Kernels& kernel = kernels();
  const int64_t blocks = block_count(projection.items);
  // Units of about the same size: a thread's range of them must not be a range of small ones.
  const int64_t row_tiles = (count + kMostRows - 1) / kMostRows;
  const int64_t even = row_tiles == 0 ? 0 : (count + row_tiles - 1) / row_tiles;
  const int64_t tile_rows = (even + kRowsStep - 1) / kRowsStep * kRowsStep;
  runtime.parallel_for(blocks * row_tiles, kPanelsAhead, [&](int64_t begin, int64_t end) {
    std::vector<float> panel(static_cast<size_t>(projection.width * kBlock));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / blocks * tile_rows;
      kernel.project_block(projection, hidden, first, std::min(count, first + tile_rows), unit % blocks, stats,
                           panel.data());
    }
  });
}

void linear_gumbel_topk(const Runtime& runtime, const Projection& projection, const ProjectedRows& rows, int64_t k,
                        const ProjectedDraws& draws, RowFault& fault) {
  const Kernels& kernel = kernels();
  const int64_t blocks = block_count(projection.items);
  std::vector<float> shift(static_cast<size_t>(rows.count * blocks)), sum(shift.size());
  project_stats(runtime, projection, rows.hidden, rows.count, {shift.data(), sum.data()});
  runtime.parallel_for(rows.count, 1, [&](int64_t begin, int64_t end) {
    RaceBuffers buffers(projection.items, k);
    std::vector<uint64_t> taken(draws.log_prob == nullptr ? 0 : static_cast<size_t>(blocks));
    for (int64_t r = begin; r < end; ++r) {
      const BlockStats<float> stats{shift.data() + r * blocks, sum.data() + r * blocks};
      const Stream stream{rows.seed, rows.ids[r], rows.step, 0, 0};
      const int64_t drawn = kernel.projected_race(projection, rows.hidden + r * projection.width, r, k, stats, stream,
                                                  buffers.scratch(), draws.values + r * k, draws.indices + r * k);
      if (drawn != k) fault.note(r, drawn);
      draws.logsumexp[r] = static_cast<float>(logsumexp(blocks, stats));
      if (draws.log_prob != nullptr && drawn == k) {
        draws.log_prob[r] = static_cast<float>(kernel.projected_log_prob(
            projection, rows.hidden + r * projection.width, r, k, stats, draws.indices + r * k, taken.data()));
      }
    }
  });
}

}  // namespace irecgan::cpu
