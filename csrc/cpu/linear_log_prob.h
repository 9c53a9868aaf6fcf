// log softmax(hidden @ weight^T + bias)[target] and its gradients, tile by tile: the logits never exist as a whole (cut
// cross-entropy, Wijmans et al., 2025). Raw pointers only.
#pragma once

#include <cstdint>

#include "runtime.h"

namespace irecgan::cpu {

struct LinearLogProb {
  const float* hidden;     // [R, H]
  const float* weight;     // [C, H]
  const float* bias;       // [C], or null for none
  const int64_t* targets;  // [R] in 0..C-1
  int64_t rows;            // R
  int64_t items;           // C
  int64_t width;           // H
};

// Both [R]. log_prob is NaN where a row's logits are: NaN or +inf among them, or all of them -inf.
void linear_log_prob(const Runtime& runtime, const LinearLogProb& in, float* log_prob, double* log_sum_exp);

// Outputs that are null are not computed. grad, log_sum_exp [R]; hidden_grad [R, H]; weight_grad [C, H]; bias_grad [C].
// A tile's products are left out where every entry of grad_r (p_rc - [c = target_r]) is below 2^-24 / C max |grad|:
// over a whole row these add up to less than a float's rounding of the largest gradient.
void linear_log_prob_backward(const Runtime& runtime, const LinearLogProb& in, const float* grad,
                              const double* log_sum_exp, float* hidden_grad, float* weight_grad, float* bias_grad);

}  // namespace irecgan::cpu
