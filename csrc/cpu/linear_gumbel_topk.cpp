#include "linear_gumbel_topk.h"

#include "block_units.h"

namespace irecgan::cpu {

void project_stats(const Runtime& runtime, const Projection& projection, const float* hidden, int64_t count,
                   BlockStats<float> stats) {
  const Kernels& kernel = kernels();
  for_each_unit(runtime, projection, count, [&](int64_t first, int64_t last, int64_t block, float* panel) {
    kernel.project_block(projection, hidden, first, last, block, stats, panel);
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
      draws.logsumexp[r] = static_cast<float>(log_sum_exp(blocks, stats));
      if (draws.log_prob != nullptr && drawn == k) {
        draws.log_prob[r] = static_cast<float>(kernel.projected_log_prob(
            projection, rows.hidden + r * projection.width, r, k, stats, draws.indices + r * k, taken.data()));
      }
    }
  });
}

}  // namespace irecgan::cpu
