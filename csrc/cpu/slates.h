// The slates of a rollout's step (Eq 4), drawn from the agent's states.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "matmul.h"
#include "projected_races.h"
#include "race_buffers.h"
#include "rollout.h"

namespace irecgan::cpu {

// A slate to draw: from which of the projected states, with whose randomness, to where.
struct SlateDraw {
  int64_t state;
  Stream stream;
  int64_t* slate;  // [K]
};

// Logits of small catalogues are made by a packed product and stay in memory. Those of large ones never are: each block
// of items is projected in cache and leaves the sum of its weights, and the blocks that win are projected again. A rule
// of the sizes alone, so that a row's rounding does not depend on who else is in the batch.
class SlateSampler {
 public:
  SlateSampler(const Runtime& runtime, const LinearWeights& head, int64_t hidden, int64_t items, int64_t slate_size);

  // How many states to project at a time: what they leave in memory is at most 16 MiB.
  int64_t states_at_a_time() const;

  // states [count, H], which must stay where they are until the slates are drawn.
  void project(const float* states, int64_t count);

  // Whether all slates of the projected states are drawn by one call of draw_all, or a few at a time by draw.
  bool draws_all() const { return packed_.empty(); }
  // drawn [count]: false where a state's logits hold NaN, +inf or fewer than K finite entries.
  void draw_all(const SlateDraw* draws, int64_t count, bool* drawn);
  // `count` <= kSmallRows slates, all of one seed. From any thread. values [K]: scratch.
  void draw(const SlateDraw* draws, int64_t count, RaceBuffers& buffers, float* values, bool* drawn) const;

 private:
  bool one_block() const { return items_ <= kBlock; }
  const float* logits_of(int64_t state) const { return logits_.data() + state * packed_.stride(); }
  BlockStats<float> stats_of(int64_t state) const;
  void draw_together(const SlateDraw* draws, int64_t count, RaceBuffers& buffers, float* values, bool* drawn) const;
  bool draw_alone(const SlateDraw& draw, RaceBuffers& buffers, float* values) const;

  const Runtime& runtime_;
  const Kernels& kernel_ = kernels();
  Projection projection_;
  const int64_t items_;
  const int64_t slate_size_;
  PackedLinear packed_;   // empty if the catalogue is large
  Buffer<float> panels_;  // the projection's; large catalogues
  Buffer<float> values_;  // [draws, K] that nobody reads
  ProjectedRaces races_;
  const float* states_ = nullptr;
  Buffer<float> logits_;       // [states, C], rows packed_'s stride apart; small catalogues
  Buffer<float> shift_, sum_;  // [states, block_count(C)]; not where the catalogue is one block
};

}  // namespace irecgan::cpu
