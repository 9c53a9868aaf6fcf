// Compiled once per instruction set: CMake sets the compiler flags and IRECGAN_ISA (baseline, avx2, avx512).
#include "candidates.h"
#include "gumbel_topk.h"
#include "kernels.h"
#include "opened_row.h"
#include "packed_linear.h"
#include "projection.h"
#include "recurrent_cell.h"
#include "small_race.h"
#include "softmax_block.h"
#include "thinned_race.h"

namespace irecgan::cpu {
namespace {

void rough_stats_f32(const float* logits, int64_t items, BlockStats<float> stats) { rough_stats(logits, items, stats); }
void rough_stats_f64(const double* logits, int64_t items, BlockStats<double> stats) {
  rough_stats(logits, items, stats);
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
    rough_stats_f32,
    rough_stats_f64,
    race_f32,
    race_f64,
    small_races,
    project_block,
    pack_block,
    projected_arrivals,
    open_projected_block,
    opened_race,
    opened_log_prob,
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
    log_prob_block,
    log_sum_exp,
    gradient_block,
    sum_rows,
};

}  // namespace irecgan::cpu
