// A session under way.
#pragma once

#include <cstdint>

namespace irecgan::cpu {

enum class Fault { kNone, kAgent, kUser, kDiscriminator };

// A root (a row of the caller's) or a completion of one.
struct Session {
  int64_t root;  // index of the caller's row
  uint32_t step;
  uint32_t spawn;
  uint32_t completion;
  int64_t parent;  // row of the previous states
  int64_t symbol;  // next input, as a row of the embedding
  int64_t node;    // row of this step's states
  double score_sum;
  int64_t clicked;  // this step's click: an item or kEnd
  float reward;
  Fault fault;  // a model's output that cannot be used
};

}  // namespace irecgan::cpu
