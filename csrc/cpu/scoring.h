// The logits and matches of a model that scores candidates by a query: the user model's click and D's favourite item.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "matmul.h"
#include "rollout.h"

namespace irecgan::cpu {

// Where the catalogue is small beside the embedding (C < 2 E), every candidate's logit is one product of the state with
// e_j W, made for a whole step at once; else a state's query is made, and the slate's embeddings are read. A rule of
// the sizes alone, so that a row's rounding does not depend on who else is in the batch.
class CandidateScorer {
 public:
  // matches: whether step_score will be called.
  CandidateScorer(const Runtime& runtime, const EncoderWeights& encoder, const LinearWeights& query, int64_t items,
                  bool matches);

  // For the states of a step.
  void project(const float* states, int64_t nodes);

  // Index of the clicked candidate, or kNotANumber (Kernels::click). weights [K + 1]: scratch.
  int64_t click(int64_t node, const int64_t* slate, int64_t slate_size, double u, float* weights) const;

  // D's score of a step without the reward factor. clicked: an item or C for END. weights [K + 1], mean [E]: scratch.
  float step_score(int64_t node, const int64_t* slate, int64_t slate_size, int64_t clicked, float* weights,
                   float* mean) const;

 private:
  const float* scores_of(int64_t node) const { return scores_.data() + node * projection_.stride(); }
  ClickInputs unfolded_slate(int64_t node, const int64_t* slate, int64_t slate_size, float* weights) const;

  const Runtime& runtime_;
  const Kernels& kernel_ = kernels();
  const float* embedding_;
  const int64_t items_;
  const int64_t width_;
  const bool folded_;
  PackedLinear projection_;  // H -> C + 1 or E
  Buffer<float> scores_;     // [nodes, C + 1 or E], rows the projection's stride apart
  Buffer<float> matches_;    // [C + 1, C + 1]: e_j . e_l, likewise
};

}  // namespace irecgan::cpu
