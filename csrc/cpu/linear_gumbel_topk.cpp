#include "linear_gumbel_topk.h"

#include <algorithm>
#include <vector>

#include "block_units.h"
#include "buffer.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kOpenedFloats = 1 << 18;  // logits of opened blocks held at a time

// The races of projected rows. All first arrivals are known before a block is opened, so that a block's weights come
// from memory once for the rows that look into it.
class ProjectedRaces {
 public:
  ProjectedRaces(const Runtime& runtime, const Projection& projection, const ProjectedRows& rows, int64_t k,
                 const ProjectedDraws& draws)
      : runtime_(runtime), projection_(projection), rows_(rows), k_(k), draws_(draws) {}

  void run(RowFault& fault) {
    project();
    find_arrivals();
    if (draws_.log_prob == nullptr) stats_ = Buffer<float>();  // its memory is the opened blocks'
    const int64_t at_a_time = std::min(rows_.count, std::max<int64_t>(1, kOpenedFloats / (k_ * kBlock)));
    logits_.reserve(at_a_time * k_ * kBlock);
    for (first_ = 0; first_ < rows_.count; first_ += at_a_time) {
      count_ = std::min(at_a_time, rows_.count - first_);
      open_blocks();
      draw(fault);
    }
  }

 private:
  // A block that a row looks into: its place among the row's.
  struct Visit {
    int64_t row;
    float* logits;
  };

  BlockStats<float> stats_of(int64_t row) const {
    float* shift = const_cast<float*>(stats_.data()) + row * blocks_of_a_row_;
    return {shift, shift + rows_.count * blocks_of_a_row_};
  }
  Stream stream_of(int64_t row) const { return {rows_.seed, rows_.ids[row], rows_.step, 0, 0}; }

  void project() {
    stats_.reserve(2 * rows_.count * blocks_of_a_row_);
    project_stats(runtime_, projection_, rows_.hidden, rows_.count, stats_of(0));
  }

  void find_arrivals() {
    arrivals_.reserve(rows_.count * k_);
    blocks_.reserve(rows_.count * k_);
    waiting_.resize(static_cast<size_t>(rows_.count));
    runtime_.parallel_for(rows_.count, 1, [&](int64_t begin, int64_t end) {
      RaceBuffers buffers(projection_.items, k_);
      for (int64_t r = begin; r < end; ++r) {
        RaceScratch scratch = buffers.scratch();
        scratch.arrivals = arrivals_.data() + r * k_;
        const int64_t waiting = kernel_.projected_arrivals(projection_, r, k_, stats_of(r), stream_of(r), scratch);
        waiting_[static_cast<size_t>(r)] = waiting;
        int64_t* blocks = blocks_.data() + r * k_;
        for (int64_t i = 0; i < waiting; ++i) blocks[i] = scratch.arrivals[i].block;
        std::sort(blocks, blocks + std::max<int64_t>(waiting, 0));
        draws_.logsumexp[r] = static_cast<float>(log_sum_exp(blocks_of_a_row_, stats_of(r)));
      }
    });
  }

  void open_blocks() {
    // Visits sorted by block, by counting.
    ends_.assign(static_cast<size_t>(blocks_of_a_row_) + 1, 0);
    for_each_visit([&](int64_t block, Visit) { ++ends_[static_cast<size_t>(block) + 1]; });
    for (size_t b = 1; b < ends_.size(); ++b) ends_[b] += ends_[b - 1];
    visits_.resize(static_cast<size_t>(ends_.back()));
    for_each_visit(
        [&](int64_t block, Visit visit) { visits_[static_cast<size_t>(ends_[static_cast<size_t>(block)]++)] = visit; });
    runtime_.parallel_for(blocks_of_a_row_, 1, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> rows;
      std::vector<float*> logits;
      for (int64_t b = begin; b < end; ++b) {
        rows.clear();
        logits.clear();
        for (int64_t v = b == 0 ? 0 : ends_[static_cast<size_t>(b) - 1]; v < ends_[static_cast<size_t>(b)]; ++v) {
          rows.push_back(visits_[static_cast<size_t>(v)].row);
          logits.push_back(visits_[static_cast<size_t>(v)].logits);
        }
        if (rows.empty()) continue;
        kernel_.open_projected_block(projection_, rows_.hidden, rows.data(), static_cast<int64_t>(rows.size()), b,
                                     logits.data());
      }
    });
  }

  float* logits_of(int64_t row) { return logits_.data() + (row - first_) * k_ * kBlock; }

  template <typename F>
  void for_each_visit(const F& f) {
    for (int64_t r = first_; r < first_ + count_; ++r) {
      for (int64_t i = 0; i < waiting_[static_cast<size_t>(r)]; ++i)
        f(blocks_.data()[r * k_ + i], Visit{r, logits_of(r) + i * kBlock});
    }
  }

  void draw(RowFault& fault) {
    runtime_.parallel_for(count_, 1, [&](int64_t begin, int64_t end) {
      std::vector<uint64_t> taken(draws_.log_prob == nullptr ? 0 : static_cast<size_t>(blocks_of_a_row_));
      for (int64_t r = first_ + begin; r < first_ + end; ++r) {
        const OpenedRow opened{blocks_.data() + r * k_, waiting_[static_cast<size_t>(r)], logits_of(r)};
        int64_t* indices = draws_.indices + r * k_;
        int64_t drawn = kNotANumber;
        if (opened.count != kNotANumber)
          drawn =
              kernel_.opened_race(opened, k_, stream_of(r), arrivals_.data() + r * k_, draws_.values + r * k_, indices);
        if (drawn != k_) fault.note(r, drawn);
        if (draws_.log_prob == nullptr || drawn != k_) continue;
        draws_.log_prob[r] = static_cast<float>(
            kernel_.opened_log_prob(opened, projection_.items, k_, stats_of(r), indices, taken.data()));
      }
    });
  }

  const Runtime& runtime_;
  const Projection& projection_;
  const ProjectedRows& rows_;
  const int64_t k_;
  const ProjectedDraws& draws_;
  const Kernels& kernel_ = kernels();
  const int64_t blocks_of_a_row_ = block_count(projection_.items);
  Buffer<float> stats_;           // shifts, then sums, both [R, blocks]
  Buffer<Arrival> arrivals_;      // [R, k]
  Buffer<int64_t> blocks_;        // [R, k], each row's ascending
  std::vector<int64_t> waiting_;  // [R] first arrivals, or kNotANumber
  // Of the rows first_..first_ + count_ - 1, whose blocks are opened together:
  int64_t first_ = 0, count_ = 0;
  Buffer<float> logits_;       // [count, k, 64]
  std::vector<int64_t> ends_;  // [blocks + 1] where a block's visits end
  std::vector<Visit> visits_;
};

}  // namespace

void project_stats(const Runtime& runtime, const Projection& projection, const float* hidden, int64_t count,
                   BlockStats<float> stats) {
  const Kernels& kernel = kernels();
  for_each_unit(runtime, projection, count, [&](int64_t first, int64_t last, int64_t block, float* panel) {
    kernel.project_block(projection, hidden, first, last, block, stats, panel);
  });
}

void linear_gumbel_topk(const Runtime& runtime, const Projection& projection, const ProjectedRows& rows, int64_t k,
                        const ProjectedDraws& draws, RowFault& fault) {
  ProjectedRaces(runtime, projection, rows, k, draws).run(fault);
}

}  // namespace irecgan::cpu
