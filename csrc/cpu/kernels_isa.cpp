// Compiled once per instruction set: CMake sets the compiler flags and IRECGAN_ISA (baseline, avx2, avx512).
#include "../math/gru_cell.h"
#include "../math/lstm_cell.h"
#include "gumbel_topk.h"
#include "kernels.h"
#include "packed_linear.h"
#include "projection.h"
#include "small_race.h"
#include "softmax_tile.h"
#include "thinned_race.h"

namespace irecgan::cpu {
namespace {

void gru_row(const float* gates, const float* recurrent, const float* state, float* next, int64_t hidden) {
#pragma omp simd
  for (int64_t i = 0; i < hidden; ++i) {
    next[i] = gru_unit(gates[i], gates[hidden + i], gates[2 * hidden + i], recurrent[i], recurrent[hidden + i],
                       recurrent[2 * hidden + i], state[i]);
  }
}

void lstm_row(const float* gates, const float* recurrent, const float* cell, float* next, float* next_cell,
              int64_t hidden) {
#pragma omp simd
  for (int64_t i = 0; i < hidden; ++i) {
    const LstmUnit unit = lstm_unit(gates[i] + recurrent[i], gates[hidden + i] + recurrent[hidden + i],
                                    gates[2 * hidden + i] + recurrent[2 * hidden + i],
                                    gates[3 * hidden + i] + recurrent[3 * hidden + i], cell[i]);
    next[i] = unit.h;
    next_cell[i] = unit.c;
  }
}

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Softmax weights (unnormalised, relative to the largest logit) of the slate and END into inputs.weights; PAD weighs 0.
void candidate_weights(const ClickInputs& in, float inverse_temperature) {
  float max = -kInfinity;
  for (int64_t j = 0; j <= in.slate_size; ++j) {
    const int64_t row = j < in.slate_size ? in.slate[j] : in.end;
    const float logit =
        row < 0 ? -kInfinity : dot(in.query, in.embedding + row * in.width, in.width) * inverse_temperature;
    in.weights[j] = logit;
    max = logit > max ? logit : max;
  }
  for (int64_t j = 0; j <= in.slate_size; ++j) in.weights[j] = exp_fast(in.weights[j] - max);
}

void candidate_weights(const ScoredSlate& in, float inverse_temperature) {
  const int64_t k = in.slate_size;
  for (int64_t j = 0; j < k; ++j) in.weights[j] = in.logits[in.slate[j]] * inverse_temperature;
  in.weights[k] = in.logits[in.end] * inverse_temperature;
  const float max = max_of(in.weights, k + 1);
#pragma omp simd
  for (int64_t j = 0; j <= k; ++j) in.weights[j] = exp_fast(in.weights[j] - max);
}

int64_t pick_candidate(const float* weights, int64_t slate_size, double u) {
  const double total = sum_of(weights, slate_size + 1);
  if (!(total < kInfinity)) return kNotANumber;
  const double target = u * total;
  double cumulated = 0;
  int64_t last = slate_size;
  for (int64_t j = 0; j <= slate_size; ++j) {
    cumulated += weights[j];
    if (cumulated > target) return j;
    if (weights[j] > 0) last = j;
  }
  return last;
}

int64_t click(const ClickInputs& in, double u) {
  candidate_weights(in, 1.0f);
  return pick_candidate(in.weights, in.slate_size, u);
}

int64_t click_scored(const ScoredSlate& in, double u) {
  candidate_weights(in, 1.0f);
  return pick_candidate(in.weights, in.slate_size, u);
}

float step_score_scored(const ScoredSlate& in, const float* matches, float temperature) {
  candidate_weights(in, 1.0f / temperature);
  float total = in.weights[in.slate_size];
  float score = total * matches[in.end];
  for (int64_t j = 0; j < in.slate_size; ++j) {
    total += in.weights[j];
    score += in.weights[j] * matches[in.slate[j]];
  }
  return score / total;
}

float step_score(const ClickInputs& in, int64_t clicked_row, float temperature, float* mean) {
  candidate_weights(in, 1.0f / temperature);
  for (int64_t e = 0; e < in.width; ++e) mean[e] = 0;
  float total = 0;
  for (int64_t j = 0; j <= in.slate_size; ++j) {
    const int64_t row = j < in.slate_size ? in.slate[j] : in.end;
    if (row < 0) continue;
    const float weight = in.weights[j];
    const float* item = in.embedding + row * in.width;
    total += weight;
#pragma omp simd
    for (int64_t e = 0; e < in.width; ++e) mean[e] += weight * item[e];
  }
  return dot(mean, in.embedding + clicked_row * in.width, in.width) / total;
}

void block_stats_f32(const float* logits, int64_t items, BlockStats<float> stats) { block_stats(logits, items, stats); }
void block_stats_f64(const double* logits, int64_t items, BlockStats<double> stats) {
  block_stats(logits, items, stats);
}

int64_t race_f32(const float* logits, int64_t items, int64_t k, BlockStats<float> stats, const Stream& stream,
                 RaceScratch scratch, float* values, int64_t* indices) {
  return race(Row<float>{logits, items}, items, k, stats, stream, scratch, values, indices);
}

int64_t race_f64(const double* logits, int64_t items, int64_t k, BlockStats<double> stats, const Stream& stream,
                 RaceScratch scratch, double* values, int64_t* indices) {
  return race(Row<double>{logits, items}, items, k, stats, stream, scratch, values, indices);
}

}  // namespace

#define IRECGAN_JOIN(a, b) a##b
#define IRECGAN_TABLE(isa) IRECGAN_JOIN(kernels_, isa)
#define IRECGAN_STRING(x) #x
#define IRECGAN_NAME(isa) IRECGAN_STRING(isa)

extern const Kernels IRECGAN_TABLE(IRECGAN_ISA);
const Kernels IRECGAN_TABLE(IRECGAN_ISA){
    IRECGAN_NAME(IRECGAN_ISA),
    kPanel,
    block_stats_f32,
    block_stats_f64,
    race_f32,
    race_f64,
    small_races,
    project_block,
    projected_race,
    projected_log_prob,
    bound_blocks,
    find_below,
    find_smallest,
    relative_limit,
    open_catalogue_block,
    thinned_race,
    packed_linear,
    gru_row,
    lstm_row,
    click,
    step_score,
    click_scored,
    step_score_scored,
    dot,
    row_stats,
    softmax_gradient,
    sum_rows,
};

}  // namespace irecgan::cpu
