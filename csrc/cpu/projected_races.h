// Races of projected rows, whose logits are not in memory. All first arrivals are known before a block is opened, so
// that a block's weights come from memory once for the rows that look into it.
#pragma once

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "runtime.h"

namespace irecgan::cpu {

// k draws from one of the projected states, with whose randomness, to where.
struct ProjectedDraw {
  int64_t state;
  Stream stream;
  float* values;     // [k]
  int64_t* indices;  // [k]
};

class ProjectedRaces {
 public:
  ProjectedRaces(const Runtime& runtime, const Projection& projection, int64_t k)
      : runtime_(runtime), projection_(projection), k_(k) {}
  ProjectedRaces(const ProjectedRaces&) = delete;  // whoever owns it owns the projection too

  // hidden [states, H], stats [states, block_count(C)]: those of project_stats. draws [count] must stay where they are.
  void find_arrivals(const float* hidden, BlockStats<float> stats, const ProjectedDraw* draws, int64_t count);

  // drawn [count]: k, or what a race returns that could not be run. log_prob [count] of the slates, or null; only with
  // them the statistics must still be there.
  void draw(int64_t* drawn, float* log_prob);

 private:
  // A block that a draw looks into: of which state, and its place among the draw's.
  struct Visit {
    int64_t state;
    float* logits;
  };

  BlockStats<float> stats_of(int64_t draw) const;
  float* logits_of(int64_t draw) { return logits_.data() + (draw - first_) * most_ * kBlock; }
  void open_blocks();
  void run_races(int64_t* drawn, float* log_prob);
  template <typename F>
  void for_each_visit(const F& f);

  const Runtime& runtime_;
  const Projection& projection_;
  const int64_t k_;
  const Kernels& kernel_ = kernels();
  const int64_t blocks_ = block_count(projection_.items);
  const int64_t most_ = std::min(k_, blocks_);  // blocks that a draw looks into
  const float* hidden_ = nullptr;
  BlockStats<float> stats_{};
  const ProjectedDraw* draws_ = nullptr;
  int64_t count_ = 0;
  Buffer<Arrival> arrivals_;      // [count, most]
  Buffer<int64_t> opened_;        // [count, most] the arrivals' blocks, each draw's ascending
  std::vector<int64_t> waiting_;  // [count] first arrivals, or kNotANumber
  // Of the draws first_..last_ - 1, whose blocks are opened together:
  int64_t first_ = 0, last_ = 0;
  Buffer<float> logits_;       // [last_ - first_, most, 64]
  std::vector<int64_t> ends_;  // [blocks + 1] where a block's visits end
  std::vector<Visit> visits_;
};

}  // namespace irecgan::cpu
