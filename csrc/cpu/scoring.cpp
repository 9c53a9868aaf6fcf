#include "scoring.h"

#include <vector>

#include "../math/click.h"

namespace irecgan::cpu {
namespace {

// e_j W [C + 1, H] and e_j . b [C + 1], the logits' weights in terms of the state.
PackedLinear fold(const Runtime& runtime, const EncoderWeights& encoder, const LinearWeights& query,
                  int64_t candidates) {
  std::vector<float> weight(static_cast<size_t>(candidates * encoder.hidden)), bias(static_cast<size_t>(candidates));
  for (int64_t j = 0; j < candidates; ++j) {
    const float* item = encoder.embedding + j * encoder.width;
    float* to = weight.data() + j * encoder.hidden;
    for (int64_t e = 0; e < encoder.width; ++e) {
      const float* from = query.weight + e * encoder.hidden;
      for (int64_t h = 0; h < encoder.hidden; ++h) to[h] += item[e] * from[h];
    }
    bias[static_cast<size_t>(j)] = kernels().dot(item, query.bias, encoder.width);
  }
  return PackedLinear(runtime, weight.data(), bias.data(), encoder.hidden, candidates);
}

}  // namespace

CandidateScorer::CandidateScorer(const Runtime& runtime, const EncoderWeights& encoder, const LinearWeights& query,
                                 int64_t items, bool matches)
    : runtime_(runtime),
      embedding_(encoder.embedding),
      items_(items),
      width_(encoder.width),
      folded_(items < 2 * encoder.width) {
  if (!folded_) {
    projection_ = PackedLinear(runtime, query.weight, query.bias, encoder.hidden, width_);
    return;
  }
  projection_ = fold(runtime, encoder, query, items + 1);
  if (!matches) return;
  const PackedLinear candidates(runtime, embedding_, nullptr, width_, items + 1);
  candidates.apply(runtime, embedding_, nullptr, items + 1, matches_.reserve((items + 1) * candidates.stride()));
}

void CandidateScorer::project(const float* states, int64_t nodes) {
  float* to = scores_.reserve(nodes * projection_.stride());
  projection_.apply(runtime_, states, nullptr, nodes, to);
}

ClickInputs CandidateScorer::unfolded_slate(int64_t node, const int64_t* slate, int64_t slate_size,
                                            float* weights) const {
  return {scores_of(node), embedding_, slate, slate_size, width_, items_, weights};
}

int64_t CandidateScorer::click(int64_t node, const int64_t* slate, int64_t slate_size, double u, float* weights) const {
  if (!folded_) return kernel_.click(unfolded_slate(node, slate, slate_size, weights), u);
  return kernel_.click_scored({scores_of(node), slate, slate_size, items_, weights}, u);
}

float CandidateScorer::step_score(int64_t node, const int64_t* slate, int64_t slate_size, int64_t clicked,
                                  float* weights, float* mean) const {
  if (!folded_)
    return kernel_.step_score(unfolded_slate(node, slate, slate_size, weights), clicked, kFavouriteTemperature, mean);
  return kernel_.step_score_scored({scores_of(node), slate, slate_size, items_, weights},
                                   matches_.data() + clicked * projection_.stride(), kFavouriteTemperature);
}

}  // namespace irecgan::cpu
