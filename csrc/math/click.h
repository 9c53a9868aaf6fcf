// What a session draws at a step besides the slate (Eq 1 and 2), and D of a whole session.
#pragma once

#include "exp.h"
#include "philox.h"

namespace irecgan {

constexpr float kFavouriteTemperature = 0.1f;  // of the softmax behind D's favourite item

struct ClickUniforms {
  double choice;  // of the click, by inverse CDF over the slate in order and END last
  double reward;
};

IRECGAN_HD ClickUniforms click_uniforms(const Stream& s) {
  const Words words = draw(s, Purpose::kClick, 0);
  return ClickUniforms{uniform(words.w[0], words.w[1]), uniform(words.w[2], words.w[3])};
}

IRECGAN_HD double sigmoid(double x) { return 1.0 / (1.0 + exp_fast(-x)); }

// Whether a click of reward logit `logit` is rewarded.
IRECGAN_HD bool earns(double u, float logit) { return u < sigmoid(static_cast<double>(logit)); }

// D of a session from the sum of its step scores.
IRECGAN_HD double session_score(double score_sum, int64_t steps) {
  return sigmoid(score_sum / static_cast<double>(steps));
}

}  // namespace irecgan
