#include "linear_gumbel_topk.h"

#include <algorithm>
#include <cmath>

namespace irecgan::cpu {
namespace {

constexpr int64_t kTileRows = 240;  // rows of a unit of work: enough to pay for packing a block's weights
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

void linear_gumbel_topk(const Runtime& runtime, const Projection& projection, const ProjectedRows& rows, int64_t k,
                        const ProjectedDraws& draws, RowFault& fault) {
  const Kernels& kernel = kernels();
  const int64_t blocks = block_count(projection.items);
  const int64_t row_tiles = (rows.count + kTileRows - 1) / kTileRows;
  std::vector<float> shift(static_cast<size_t>(rows.count * blocks)), sum(shift.size());
  const BlockStats<float> all{shift.data(), sum.data()};
  runtime.parallel_for(blocks * row_tiles, kPanelsAhead, [&](int64_t begin, int64_t end) {
    std::vector<float> panel(static_cast<size_t>(projection.width * kBlock));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / blocks * kTileRows;
      kernel.project_block(projection, rows.hidden, first, std::min(rows.count, first + kTileRows), unit % blocks, all,
                           panel.data());
    }
  });
  runtime.parallel_for(rows.count, 1, [&](int64_t begin, int64_t end) {
    RaceBuffers buffers(projection.items, k);
    for (int64_t r = begin; r < end; ++r) {
      const BlockStats<float> stats{shift.data() + r * blocks, sum.data() + r * blocks};
      const Stream stream{rows.seed, rows.ids[r], rows.step, 0, 0};
      const int64_t drawn = kernel.projected_race(projection, rows.hidden + r * projection.width, r, k, stats, stream,
                                                  buffers.scratch(), draws.values + r * k, draws.indices + r * k);
      if (drawn != k) fault.note(r, drawn);
      draws.logsumexp[r] = static_cast<float>(logsumexp(blocks, stats));
    }
  });
}

}  // namespace irecgan::cpu
