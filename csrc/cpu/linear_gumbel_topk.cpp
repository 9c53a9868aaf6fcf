#include "linear_gumbel_topk.h"

#include "block_units.h"
#include "projected_races.h"

namespace irecgan::cpu {

void project_stats(const Runtime& runtime, const Projection& projection, const float* hidden, int64_t count,
                   BlockStats<float> stats) {
  const Kernels& kernel = kernels();
  for_each_unit(runtime, projection, count, [&](int64_t first, int64_t last, int64_t block, float* panel) {
    kernel.project_block(projection, hidden, first, last, block, stats, panel);
  });
}

void linear_gumbel_topk(const Runtime& runtime, const Projection& projection, const ProjectedRows& rows, int64_t k,
                        const ProjectedDraws& out, RowFault& fault) {
  const int64_t blocks = block_count(projection.items);
  Buffer<float> memory;
  float* const shift = memory.reserve(2 * rows.count * blocks);
  const BlockStats<float> stats{shift, shift + rows.count * blocks};
  project_stats(runtime, projection, rows.hidden, rows.count, stats);

  const Kernels& kernel = kernels();
  runtime.parallel_for(rows.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const BlockStats<float> row{stats.shift + r * blocks, stats.sum + r * blocks};
      out.logsumexp[r] = static_cast<float>(kernel.log_sum_exp(blocks, row));
    }
  });
  std::vector<ProjectedDraw> draws;
  for (int64_t r = 0; r < rows.count; ++r)
    draws.push_back({r, {rows.seed, rows.ids[r], rows.step, 0, 0}, out.values + r * k, out.indices + r * k});
  std::vector<int64_t> drawn(draws.size());
  ProjectedRaces races(runtime, projection, k);
  races.find_arrivals(rows.hidden, stats, draws.data(), rows.count);
  if (out.log_prob == nullptr) memory = Buffer<float>();  // the opened blocks' from here on
  races.draw(drawn.data(), out.log_prob);
  for (int64_t r = 0; r < rows.count; ++r) {
    if (drawn[static_cast<size_t>(r)] != k) fault.note(r, drawn[static_cast<size_t>(r)]);
  }
}

}  // namespace irecgan::cpu
