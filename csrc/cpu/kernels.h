// The CPU inner loops, compiled once per instruction set and chosen at run time. No torch here, and nothing of the C++
// library that could be instantiated with vector instructions and then shared: raw pointers only.
#pragma once

#include <cstdint>

#include "../math/philox.h"
#include "catalogue.h"

namespace irecgan::cpu {

// A race that could not be run returns one of these instead of k.
constexpr int64_t kNotANumber = -1;

constexpr int64_t kSmallRows = 8;  // rows of one call of small_races

// (shift, sum of exp(l - shift)) of each block of a row. The shift is near the block's largest logit, or 0 where the
// block has no finite logit; then the sum is 0.
template <typename T>
struct BlockStats {
  T* shift;  // [block_count(C)]
  T* sum;    // [block_count(C)]
};

// An inner node of a session's race: the next arrival of a block.
struct Arrival {
  double log_time;
  int64_t block;
  uint64_t taken;  // bit i: item 64 * block + i was drawn
};

// Work space of one race, owned by the caller.
struct RaceScratch {
  float* lower_bounds;  // [block_count(C)]
  float* uniforms;      // [block_count(C)]
  int64_t* candidates;  // [block_count(C)]
  Arrival* arrivals;    // [k]
};

// One candidate set of a user's click: the slate's item embeddings, then END's.
struct ClickInputs {
  const float* query;      // [E] W^c s + b^c
  const float* embedding;  // [C + 2, E]
  const int64_t* slate;    // [K]; negative entries are PAD
  int64_t slate_size;      // K
  int64_t width;           // E
  int64_t end;             // END's row of the embedding
  float* weights;          // [K + 1] scratch
};

// The output projection of a catalogue, whose logits hidden . weight_i + bias_i are made where they are needed.
struct Projection {
  const float* weight;       // [C, H]
  const float* bias;         // [C] or null
  int64_t items;             // C
  int64_t width;             // H
  const uint64_t* excluded;  // [R, block_count(C)] bit i: item 64 * block + i is not drawn; or null
  const float* panels;       // [block_count(C), H, 64] the weights, packed by pack_block; or null: in every call
};

// A projected row with the logits of the blocks that its race may look into: those of its first arrivals.
struct OpenedRow {
  const int64_t* blocks;  // [count] ascending
  int64_t count;
  const float* logits;  // [count, 64]
};

// What a click and D's score need of one session's state where the catalogue is small: every candidate's logit.
struct ScoredSlate {
  const float* logits;   // [C + 1], END's the last
  const int64_t* slate;  // [K]
  int64_t slate_size;    // K
  int64_t end;           // C
  float* weights;        // [K + 1] scratch
};

// A product with a weight matrix of `columns` rows that was packed in panels of Kernels::panel.
struct PackedProduct {
  const float* a;        // [.., inner]
  const int64_t* index;  // row of `a` behind each row of the product; null: the same
  int64_t inner;
  int64_t columns;
  const float* weight;  // [panels, inner, panel]
  const float* bias;    // [panels * panel] or null
  float* out;           // [rows, columns]
  bool accumulate;      // onto what is in `out`: a sum that is rounded once for every product
};

// What the gradient of log softmax(logits)[target] by a block's logits, grad_r ([c = target_r] - p_rc), is made of and
// where it goes. Row begin + i and item 64 * block + j are at by_row[i * items + j] and at by_item[j * rows + i].
struct LogitGradient {
  const int64_t* targets;     // [R]
  const double* log_sum_exp;  // [R]
  const float* grad;          // [R]
  float bound;                // entries below it do not count
  float* by_row;
  int64_t items;
  float* by_item;  // or null
  int64_t rows;
};

struct Kernels {
  const char* name;
  int64_t panel;  // columns of a panel of a packed weight matrix

  // Each block's weight, up to WeightBound::kExcess too large: enough to tell which blocks can win. A NaN or +inf among
  // the logits makes a sum NaN.
  void (*rough_stats_f32)(const float* logits, int64_t items, BlockStats<float> stats);
  void (*rough_stats_f64)(const double* logits, int64_t items, BlockStats<double> stats);

  // k draws without replacement from one row and its rough statistics. Returns k; fewer if the row has fewer finite
  // logits (then that number); kNotANumber if a logit is NaN or +inf. values [k] = -log(arrival) in descending order,
  // indices [k].
  int64_t (*race_f32)(const float* logits, int64_t items, int64_t k, BlockStats<float> stats, const Stream& stream,
                      RaceScratch scratch, float* values, int64_t* indices);
  int64_t (*race_f64)(const double* logits, int64_t items, int64_t k, BlockStats<double> stats, const Stream& stream,
                      RaceScratch scratch, double* values, int64_t* indices);

  // race_f32 of up to kSmallRows rows of at most kBlock items, without their statistics: row r's logits [C], stream,
  // values [k] (or null: no times wanted) and indices [k]. plain[r] is false where the row's draws are not valid:
  // race_f32 finds out why. One seed.
  void (*small_races)(const float* const* logits, int64_t count, int64_t items, int64_t k, const Stream* streams,
                      float* const* values, int64_t* const* indices, bool* plain);

  // Statistics of one block of the projected rows begin..end - 1 of hidden [R, H], to stats[r * block_count(C) +
  // block]. panel [H * kBlock] scratch. A logit is the same whatever the rows beside it.
  void (*project_block)(const Projection& projection, const float* hidden, int64_t begin, int64_t end, int64_t block,
                        BlockStats<float> stats, float* panel);
  // panel [H, 64] = a block's weights with the item innermost, 0 for absent items.
  void (*pack_block)(const Projection& projection, int64_t block, float* panel);
  // race_f32 of a projected row in three steps, so that rows whose races look into the same blocks read their weights
  // together. First arrivals, in scratch.arrivals: how many, or kNotANumber.
  int64_t (*projected_arrivals)(int64_t items, int64_t k, BlockStats<float> stats, const Stream& stream,
                                RaceScratch scratch);
  // logits[j] [64] = those of row rows[j] of hidden [R, H] in one block, j < count.
  void (*open_projected_block)(const Projection& projection, const float* hidden, const int64_t* rows, int64_t count,
                               int64_t block, float* const* logits);
  int64_t (*opened_race)(const OpenedRow& row, int64_t k, const Stream& stream, Arrival* arrivals, float* values,
                         int64_t* indices);

  // Log-probability under Plackett-Luce of the k items that opened_race drew, in their order. taken [block_count(C)]
  // scratch, all 0 before and after.
  double (*opened_log_prob)(const OpenedRow& row, int64_t items, int64_t k, BlockStats<float> stats,
                            const int64_t* indices, uint64_t* taken);

  // What the files block_bounds.h and thinned_race.h do for a prepared catalogue.
  void (*bound_blocks)(const Catalogue& catalogue, const CatalogueRow* rows, int64_t count, const BlockBounds* bounds,
                       double* shifts, double* scratch);
  int64_t (*find_below)(const float* values, int64_t n, float limit, int64_t* found);
  int64_t (*find_smallest)(const float* values, int64_t n, int64_t m, float* smallest, int64_t* found);
  float (*relative_limit)(double log_time, double row_shift);
  void (*open_catalogue_block)(const Catalogue& catalogue, const CatalogueRow* rows, const int64_t* which,
                               int64_t count, int64_t block, OpenedBlock* opened);
  int64_t (*thinned_race)(const Catalogue& catalogue, const CatalogueRow& row, const OpenedBlock* opened, int64_t count,
                          double row_shift, int64_t k, Arrival* arrivals, double* log_times, int64_t* indices);

  // Rows begin..end - 1 of the product.
  void (*packed_linear)(const PackedProduct& product, int64_t begin, int64_t end);

  // gates [3H]: input projections (r, z, n); recurrent [3H]; state, next [H].
  void (*gru_row)(const float* gates, const float* recurrent, const float* state, float* next, int64_t hidden);
  // gates [4H] (i, f, g, o): input projections; recurrent [4H]; cell, next_cell, next [H].
  void (*lstm_row)(const float* gates, const float* recurrent, const float* cell, float* next, float* next_cell,
                   int64_t hidden);

  // Index of the clicked candidate, 0..K-1 or K for END, by inverse CDF in slate order with uniform u; kNotANumber if a
  // logit is NaN or infinite.
  int64_t (*click)(const ClickInputs& inputs, double u);
  // D's step score without the reward factor: (sum_j softmax_j(query . e_j / temperature) e_j) . e_clicked. mean [E]
  // scratch.
  float (*step_score)(const ClickInputs& inputs, int64_t clicked_row, float temperature, float* mean);
  // The same two with the logits given; matches [C + 1]: every candidate's e_j . e_clicked.
  int64_t (*click_scored)(const ScoredSlate& inputs, double u);
  float (*step_score_scored)(const ScoredSlate& inputs, const float* matches, float temperature);
  float (*dot)(const float* a, const float* b, int64_t n);

  // project_block without exclusions, which also notes the logits of the rows' targets [R] that lie in the block.
  void (*log_prob_block)(const Projection& projection, const float* hidden, int64_t begin, int64_t end, int64_t block,
                         BlockStats<float> stats, const int64_t* targets, float* target_logits, float* panel);
  // log of a row's whole weight: -inf where all logits are, NaN with a NaN or +inf among them.
  double (*log_sum_exp)(int64_t blocks, BlockStats<float> stats);
  // The gradient by one block's logits. Returns whether an entry counts; all do where grad or log_sum_exp is NaN.
  bool (*gradient_block)(const Projection& projection, const float* hidden, int64_t begin, int64_t end, int64_t block,
                         const LogitGradient& gradient, float* panel);
  // out [n] = (out, if `accumulate`) + the sum of the rows of values [rows, n], which are `stride` apart.
  void (*sum_rows)(const float* values, int64_t stride, int64_t rows, int64_t n, float* out, bool accumulate);
};

// The best set that this processor can run, or the one that IRECGAN_CPU_CAPABILITY names (baseline, avx2, avx512).
const Kernels& kernels();

}  // namespace irecgan::cpu
