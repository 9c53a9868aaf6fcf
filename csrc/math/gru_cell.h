// One hidden unit of a GRU step, in torch.nn.GRU's form and gate order (reset, update, new).
#pragma once

#include "exp.h"

namespace irecgan {

// x_*: input projections, biases included; h_*: recurrent projections, biases included; h: previous state.
//   r = sigmoid(x_r + h_r), z = sigmoid(x_z + h_z), n = tanh(x_n + r h_n), result n + z (h - n)
// With e = exp(-x_z - h_z) and f = exp(-2 (x_n + r h_n)) that is ((1 - f) e + h (1 + f)) / ((1 + f) (1 + e)): one
// division for two gates. T: float, or a vector of them that exp_gate takes.
template <typename T>
IRECGAN_HD T gru_unit(T x_r, T x_z, T x_n, T h_r, T h_z, T h_n, T h) {
  const T r = 1.0f / (1.0f + exp_gate(-(x_r + h_r)));
  const T e = exp_gate(-(x_z + h_z));
  const T f = exp_gate(-2.0f * (x_n + r * h_n));
  const T sum = 1.0f + f;
  return ((1.0f - f) * e + h * sum) / (sum * (1.0f + e));
}

}  // namespace irecgan
