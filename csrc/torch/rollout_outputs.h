// What irecgan_ext::rollout returns, on any device, before anything is played.
#pragma once

#include <initializer_list>
#include <tuple>

#include "checks.h"
#include "tensors.h"

namespace irecgan {

// slates [R, W, K], clicks [R, W], rewards [R, W], lengths [R], censored [R], scores [R], q [R, W], work [4].
using RolloutResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Tensor filled(const Tensor& like, std::initializer_list<int64_t> size, torch::headeronly::ScalarType type,
                     double value) {
  Tensor t = torch::stable::new_empty(like, size, type);
  torch::stable::fill_(t, value);
  return t;
}

// slates and clicks of `pad`, zeros otherwise.
inline RolloutResult rollout_outputs(const Tensor& like, int64_t r, int64_t w, int64_t k, int64_t pad) {
  using torch::headeronly::ScalarType;
  const auto fill = static_cast<double>(pad);
  return {filled(like, {r, w, k}, ScalarType::Long, fill), filled(like, {r, w}, ScalarType::Long, fill),
          filled(like, {r, w}, ScalarType::Float, 0),      filled(like, {r}, ScalarType::Long, 0),
          filled(like, {r}, ScalarType::Bool, 0),          filled(like, {r}, ScalarType::Float, 0),
          filled(like, {r, w}, ScalarType::Float, 0),      filled(like, {4}, ScalarType::Long, 0)};
}

}  // namespace irecgan
