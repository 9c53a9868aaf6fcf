// exp without a library call, branch-free, so that compilers vectorise loops over it.
#pragma once

#include <cstring>

#include "target.h"

namespace irecgan {

// float: at most 1.5 ulp from exp(x) for x in [-87, 88]; exactly 0 below -87 (so -inf has weight 0); NaN stays NaN.
// Cody-Waite reduction x = n ln 2 + r, |r| <= ln(2)/2, and the minimax polynomial of degree 5 for (exp(r) - 1 - r) /
// r^2.
IRECGAN_HD float exp_fast(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted =
      clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits hold n, rounded to nearest
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) << 23) + 0x3F800000u);
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const float y = p * scale;
  return x < -87.0f ? 0.0f : y;
}

// 2^y for y in [-127, 127]: relative error at most 2^-23; 0 at -127; NaN stays NaN. Polynomial of degree 5 for the part
// of y that is left when the nearest integer is taken out.
IRECGAN_HD float power_of_2(float y) {
  const float shifted = y + 12582912.0f;
  const float f = y - (shifted - 12582912.0f);
  float p = 1.327647187e-3f;
  p = p * f + 9.675541334e-3f;
  p = p * f + 5.550713274e-2f;
  p = p * f + 2.402211972e-1f;
  p = p * f + 6.931469671e-1f;
  p = p * f + 1.000000072f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) << 23) + 0x3F800000u);  // 2^n; n = -127 gives 0
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

// exp(x) for x <= 0, the weight of an item relative to the largest of its neighbours: relative error at most
// 2^-22 + |x| 2^-23; exactly 0 for x < -87.7 (so -inf has weight 0); NaN stays NaN. Shorter than exp_fast: x log2(e) is
// rounded, instead of reduced by a constant in two parts.
IRECGAN_HD float exp_weight(float x) {
  const float y = x * 1.44269504f;
  return power_of_2(y < -127.0f ? -127.0f : y);  // this order keeps NaN
}

// An upper bound of exp(x) in a few instructions: 2^floor(y) (1 + y - floor(y)) >= 2^y, y = x log2(e), by writing y as
// exponent and mantissa of a float. Between (1 - 2.2e-5) and (1 + kExcess) times exp(x) for x in [-87, 88]; 0 below
// -88.
struct WeightBound {
  static constexpr float kExcess = 0.0616f;  // (1 + f) 2^-f - 1 <= 0.06148, and the rounding of y
  static constexpr float kScale = 1.44269504f;
  static constexpr float kZero = 512.0f;          // a float in [512, 1024) holds y + 127 in steps of 2^-14, below an
  static constexpr float kOne = 512.0f + 127.0f;  // exponent that the shift moves out
  static constexpr int kShift = 9;
  static constexpr uint32_t kTooHigh = 0x443FC000;  // the bits of 512 + 255: from here on the bound is not finite
};

// What weight_bound makes a float of; at least kTooHigh if x > 88, +inf or NaN.
IRECGAN_HD uint32_t weight_bound_bits(float x) {
  const float fixed = x * WeightBound::kScale + WeightBound::kOne;
  const float clamped = fixed < WeightBound::kZero ? WeightBound::kZero : fixed;  // this order keeps NaN
  uint32_t bits;
  std::memcpy(&bits, &clamped, sizeof bits);
  return bits;
}

IRECGAN_HD float weight_bound(uint32_t bits) {
  bits <<= WeightBound::kShift;
  float bound;
  std::memcpy(&bound, &bits, sizeof bound);
  return bound;
}

// double: at most 2 ulp from exp(x) for x in [-708, 709]; exactly 0 below -708; NaN stays NaN.
IRECGAN_HD double exp_fast(double x) {
  const double clamped = x < -708.0 ? -708.0 : (x > 709.0 ? 709.0 : x);
  const double shifted = clamped * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  const double n = shifted - 6755399441055744.0;
  const double r = (clamped - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  double p = 1.0 / 6227020800.0;  // Taylor to degree 13: the remainder at |r| = ln(2)/2 is below 2^-57
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = (p * r) * r + r + 1.0;
  int64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int64_t>((static_cast<uint64_t>(bits) << 52) + 0x3FF0000000000000u);
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const double y = p * scale;
  return x < -708.0 ? 0.0 : y;
}

IRECGAN_HD double exp_weight(double x) { return exp_fast(x); }

// exp(x) of a gate's argument, x cut to +-27.7: relative error at most 2^-22 + |x| 2^-23; NaN stays NaN. The cut moves
// sigmoid and tanh by less than 1e-12, and keeps products of three such numbers finite, so that several gates can share
// one division. Otherwise as exp_weight.
IRECGAN_HD float exp_gate(float x) {
  constexpr float kCut = 40.0f;  // in powers of 2
  const float y = x * 1.44269504f;
  const float above = y < -kCut ? -kCut : y;  // this order keeps NaN
  const float clamped = kCut < above ? kCut : above;
  return power_of_2(clamped);
}

}  // namespace irecgan
