// One hidden unit of a GRU step, in torch.nn.GRU's form and gate order (reset, update, new).
#pragma once

#include "exp.h"

namespace irecgan {

// x_*: input projections, biases included; h_*: recurrent projections, biases included; h: previous state.
IRECGAN_HD float gru_unit(float x_r, float x_z, float x_n, float h_r, float h_z, float h_n, float h) {
  const float r = sigmoid_fast(x_r + h_r);
  const float z = sigmoid_fast(x_z + h_z);
  const float n = tanh_fast(x_n + r * h_n);
  return n + z * (h - n);
}

}  // namespace irecgan
