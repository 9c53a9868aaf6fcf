// log softmax(hidden @ weight^T + bias)[target] and its gradients on the device, without [R, C] in memory.
#pragma once

#include "linear_stats.h"

namespace irecgan::cuda {

// Pointers are device memory, contiguous. A negative target (PAD) gives log-probability 0 and takes no part. Nothing
// can be raised without waiting for the device: a row whose logits hold NaN or +inf or nothing but -inf, or whose
// target is not below C, gets NaN.
template <typename T>
struct LinearLogProb {
  LinearLayer<T> layer;
  const int64_t* targets;    // [R]
  float* target_logits;      // [R] scratch
  LogitStats<float>* stats;  // [R, block_count(C)] scratch
  float* log_prob;           // [R]
  double* log_sum_exp;       // [R]
};

// Asynchronous. Two launches; none for no rows.
cudaError_t launch_linear_log_prob(cudaStream_t stream, const LinearLogProb<float>& op);
cudaError_t launch_linear_log_prob(cudaStream_t stream, const LinearLogProb<BFloat16>& op);

// Rows and items of which gradients of the logits are held at a time: multiples of 128, at most 2^30 together.
struct PanelSizes {
  int64_t rows;
  int64_t items;
};

// At most 2^24 gradients.
PanelSizes panel_sizes(int64_t rows, int64_t items);

// G = grad_r ([i = target_r] - p_ri) is made a panel at a time, as it is and transposed, and multiplied: G weight for
// hidden, G^T hidden for weight. Rows whose target is negative or whose gradient is 0 take no part, whatever they hold.
template <typename T>
struct LinearLogProbBackward {
  LinearLayer<T> layer;
  const int64_t* targets;     // [R]
  const float* grad;          // [R]
  const double* log_sum_exp;  // [R]
  PanelSizes panel;
  float* scales;          // [R] scratch: grad of the rows that take part, else 0
  T* gradients;           // [panel.rows, panel.items] scratch
  T* transposed;          // [panel.items, panel.rows] scratch
  T* panel_weight;        // [H, panel.items] scratch; null where hidden_grad is
  T* panel_hidden;        // [H, panel.rows] scratch; null where weight_grad is
  float* column_sums;     // [panel.rows / 32, panel.items] scratch; null where bias_grad is
  float* hidden_partial;  // [R, H] scratch, for T of 16 bits and several panels of items
  float* weight_partial;  // [panel.items, H] scratch, for T of 16 bits and several panels of rows
  float* bias_partial;    // [panel.items] scratch, likewise
  T* hidden_grad;         // [R, H], or null: not wanted
  T* weight_grad;         // [C, H], or null
  T* bias_grad;           // [C], or null
};

// Asynchronous. One launch, and up to six per panel; R >= 1.
cudaError_t launch_linear_log_prob_backward(cudaStream_t stream, const LinearLogProbBackward<float>& op);
cudaError_t launch_linear_log_prob_backward(cudaStream_t stream, const LinearLogProbBackward<BFloat16>& op);

}  // namespace irecgan::cuda
