// What is kept of a block's logits.
#pragma once

namespace irecgan::cuda {

constexpr float kInfinity = __builtin_inff();

// Largest logit, and the sum of exp(l - largest). Without a finite logit the sum is 0; NaN and +inf make it NaN.
template <typename T>
struct LogitStats {
  T max;
  T sum;
};

}  // namespace irecgan::cuda
