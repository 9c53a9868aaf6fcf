// One hidden unit of an LSTM step, in torch.nn.LSTM's form and gate order (input, forget, cell, output).
#pragma once

#include "exp.h"

namespace irecgan {

template <typename T>
struct LstmUnit {
  T h;
  T c;
};

// i, f, g, o: pre-activations, both projections and biases included; c: previous cell.
//   cell = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(cell)
// as fractions of exponentials with one denominator each: two divisions for five gates. T: float, or a vector
// of them that exp_gate takes.
template <typename T>
IRECGAN_HD LstmUnit<T> lstm_unit(T i, T f, T g, T o, T c) {
  const T e_i = exp_gate(-i), e_f = exp_gate(-f), e_g = exp_gate(-2.0f * g);
  const T keep = 1.0f + e_f;
  const T write = (1.0f + e_i) * (1.0f + e_g);
  const T cell = (c * write + (1.0f - e_g) * keep) / (keep * write);
  const T e_o = exp_gate(-o), e_c = exp_gate(-2.0f * cell);
  return LstmUnit<T>{(1.0f - e_c) / ((1.0f + e_o) * (1.0f + e_c)), cell};
}

}  // namespace irecgan
