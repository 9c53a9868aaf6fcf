// csrc/cuda/linear_gumbel_topk.cu on the host, behind C functions for python_tests/test_simt_linear_gumbel_topk.py. To
// be linked with csrc/cuda/linear_stats.cu.
#include "../cuda/linear_gumbel_topk.cu"

#include "entry.h"

namespace {

struct LinearDraws {
  const int64_t* rows;
  const int64_t* seed;
  int64_t step, k;
  const int64_t* exclude;
  int64_t exclude_width;
  const bool* mask;
  int64_t mask_per_row;
  float* values;
  int64_t* indices;
  float* logsumexp;
  float* log_prob;
};

template <typename T>
const char* run_linear(int reversed, const irecgan::cuda::LinearLayer<T>& layer, const LinearDraws& draws) {
  return simt::outcome(reversed, [&] {
    const auto blocks = static_cast<size_t>(layer.rows * irecgan::block_count(layer.items));
    // Filled with what would do harm if it were read before it is written.
    std::vector<irecgan::cuda::LogitStats<float>> stats(blocks, {1e30f, 1e30f});
    std::vector<double> log_times(blocks, -1e300);
    std::vector<uint64_t> taken(blocks, ~uint64_t{0}), excluded(blocks, ~uint64_t{0});
    std::vector<float> drawn_logits(static_cast<size_t>(layer.rows * draws.k), 1e30f);
    const bool excludes = draws.exclude != nullptr || draws.mask != nullptr;
    irecgan::cuda::launch_linear_gumbel_topk(nullptr,
                                             irecgan::cuda::LinearGumbelTopk<T>{layer,
                                                                                {draws.rows, draws.seed, 0, draws.step},
                                                                                draws.k,
                                                                                draws.exclude,
                                                                                draws.exclude_width,
                                                                                draws.mask,
                                                                                draws.mask_per_row != 0,
                                                                                excludes ? excluded.data() : nullptr,
                                                                                stats.data(),
                                                                                log_times.data(),
                                                                                taken.data(),
                                                                                draws.values,
                                                                                draws.indices,
                                                                                draws.logsumexp,
                                                                                drawn_logits.data(),
                                                                                draws.log_prob});
  });
}

}  // namespace

// sizes: rows R, items C, width H.
extern "C" {

const char* linear_gumbel_topk_f32(int reversed, const float* hidden, const float* weight, const float* bias,
                                   const int64_t* sizes, const LinearDraws* draws) {
  return run_linear<float>(reversed, {hidden, weight, bias, sizes[0], sizes[1], sizes[2]}, *draws);
}

const char* linear_gumbel_topk_bf16(int reversed, const irecgan::BFloat16* hidden, const irecgan::BFloat16* weight,
                                    const irecgan::BFloat16* bias, const int64_t* sizes, const LinearDraws* draws) {
  return run_linear<irecgan::BFloat16>(reversed, {hidden, weight, bias, sizes[0], sizes[1], sizes[2]}, *draws);
}

}  // extern "C"
