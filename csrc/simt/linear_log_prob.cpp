// csrc/cuda/linear_log_prob.cu and its backward on the host, behind C functions for
// python_tests/test_simt_linear_log_prob.py. To be linked with csrc/cuda/linear_stats.cu.
#include "../cuda/linear_log_prob.cu"

#include "../cuda/linear_log_prob_backward.cu"
#include "entry.h"

namespace {

using irecgan::cuda::LinearLayer;

constexpr float kHarmful = -1e30f;  // what scratch holds before it is written

template <typename T>
std::vector<T> scratch(int64_t size) {
  return std::vector<T>(static_cast<size_t>(size), irecgan::from_float<T>(kHarmful));
}

// The kernels read scratch 16 bytes at a time.
template <typename T>
T* data_if(bool wanted, std::vector<T>& values) {
  if (reinterpret_cast<uintptr_t>(values.data()) % 16 != 0) throw simt::Misuse("scratch is not aligned");
  return wanted ? values.data() : nullptr;
}

template <typename T>
const char* run_forward(int reversed, const LinearLayer<T>& layer, const int64_t* targets, float* log_prob,
                        double* log_sum_exp) {
  return simt::outcome(reversed, [&] {
    std::vector<float> target_logits = scratch<float>(layer.rows);
    const int64_t blocks = layer.rows * irecgan::block_count(layer.items);
    std::vector<irecgan::cuda::LogitStats<float>> stats(static_cast<size_t>(blocks), {1e30f, 1e30f});
    irecgan::cuda::launch_linear_log_prob(
        nullptr,
        irecgan::cuda::LinearLogProb<T>{layer, targets, target_logits.data(), stats.data(), log_prob, log_sum_exp});
  });
}

template <typename T>
struct Gradients {
  const int64_t* targets;
  const float* grad;
  const double* log_sum_exp;
  int64_t panel_rows, panel_items;  // 0: as the op chooses
  T* hidden;
  T* weight;
  T* bias;
};

template <typename T>
const char* run_backward(int reversed, const LinearLayer<T>& layer, const Gradients<T>& g) {
  return simt::outcome(reversed, [&] {
    irecgan::cuda::PanelSizes panel = irecgan::cuda::panel_sizes(layer.rows, layer.items);
    if (g.panel_rows != 0) panel = {g.panel_rows, g.panel_items};
    auto scales = scratch<float>(layer.rows);
    auto gradients = scratch<T>(panel.rows * panel.items), transposed = scratch<T>(panel.rows * panel.items);
    auto panel_weight = scratch<T>(layer.width * panel.items), panel_hidden = scratch<T>(layer.width * panel.rows);
    auto column_sums = scratch<float>(panel.rows / 32 * panel.items);
    auto hidden_partial = scratch<float>(layer.rows * layer.width);
    auto weight_partial = scratch<float>(panel.items * layer.width), bias_partial = scratch<float>(panel.items);
    irecgan::cuda::launch_linear_log_prob_backward(
        nullptr, irecgan::cuda::LinearLogProbBackward<T>{
                     layer, g.targets, g.grad, g.log_sum_exp, panel, scales.data(), data_if(true, gradients),
                     data_if(true, transposed), data_if(g.hidden != nullptr, panel_weight),
                     data_if(g.weight != nullptr, panel_hidden), data_if(g.bias != nullptr, column_sums),
                     hidden_partial.data(), weight_partial.data(), bias_partial.data(), g.hidden, g.weight, g.bias});
  });
}

}  // namespace

// sizes: rows R, items C, width H.
#define LINEAR_LOG_PROB_ENTRIES(name, T)                                                                       \
  extern "C" const char* linear_log_prob_##name(int reversed, const T* hidden, const T* weight, const T* bias, \
                                                const int64_t* sizes, const int64_t* targets, float* log_prob, \
                                                double* log_sum_exp) {                                         \
    return run_forward<T>(reversed, {hidden, weight, bias, sizes[0], sizes[1], sizes[2]}, targets, log_prob,   \
                          log_sum_exp);                                                                        \
  }                                                                                                            \
  extern "C" const char* linear_log_prob_backward_##name(int reversed, const T* hidden, const T* weight,       \
                                                         const T* bias, const int64_t* sizes,                  \
                                                         const Gradients<T>* gradients) {                      \
    return run_backward<T>(reversed, {hidden, weight, bias, sizes[0], sizes[1], sizes[2]}, *gradients);        \
  }

LINEAR_LOG_PROB_ENTRIES(f32, float)
LINEAR_LOG_PROB_ENTRIES(bf16, irecgan::BFloat16)
