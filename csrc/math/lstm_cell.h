// One hidden unit of an LSTM step, in torch.nn.LSTM's form and gate order (input, forget, cell, output).
#pragma once

#include "exp.h"

namespace irecgan {

struct LstmUnit {
  float h;
  float c;
};

// i, f, g, o: pre-activations, both projections and biases included; c: previous cell.
IRECGAN_HD LstmUnit lstm_unit(float i, float f, float g, float o, float c) {
  const float cell = sigmoid_fast(f) * c + sigmoid_fast(i) * tanh_fast(g);
  return LstmUnit{sigmoid_fast(o) * tanh_fast(cell), cell};
}

}  // namespace irecgan
