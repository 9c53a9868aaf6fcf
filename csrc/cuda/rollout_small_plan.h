// Where the persistent rollout kernel keeps what: packed weights, states and scores.
#pragma once

#include "rollout.h"

namespace irecgan::cuda {

constexpr int kSmallLayers = 3;
constexpr int kSlots = 32;    // sessions that a thread block plays at a time
constexpr int kEntries = 16;  // roots whose completions it starts at a time
constexpr int kSmallThreads = 256;
constexpr int kSmallWarps = kSmallThreads / 32;

// A linear layer for products with rows of states: [inner + 1, columns], the bias the last row. `inner` is a multiple
// of four, so that states are read as vectors; what is beyond the layer's own width is 0.
struct Packed {
  float* global;
  int32_t inner, columns;
  int32_t shared_at;  // offset in the shared weights, or -1 where it is read through the caches

  int64_t size() const { return static_cast<int64_t>(inner + 1) * columns; }
};

struct SmallModel {
  float* table;  // [C + 2, G H] input projections of layer 0, by symbol
  Packed recurrent[kSmallLayers];
  Packed input[kSmallLayers];  // the first one is the table
  Packed head;     // to scores; user: click logits, then reward logits; agent: logits; discriminator: favourite logits
  int32_t hidden;  // H
  int32_t stride;  // H, up to a multiple of four
  int32_t state_at[kSmallLayers];  // of h in a state vector, followed by c; each `stride` wide
  int32_t scores_at;               // of the head's columns in a score vector
};

struct SmallPlan {
  Rollout op;
  SmallModel models[kModels];
  float* matches;                 // [C + 1, C + 1] products of D's embeddings
  unsigned long long* next_root;  // roots begun by all blocks
  int32_t state_width;            // of a session's state vector, all models
  int32_t score_width;
  int32_t spare_width;     // of a row of new states of one layer
  int32_t shared_weights;  // floats
  int64_t shared_bytes;
  int64_t scratch_bytes;
};

// What a thread block knows of its sessions.
struct Control {
  double sum[kSlots];                              // D's step scores before the next step
  double prefix_sum[kEntries], own_sum[kEntries];  // before and after the root's step
  int64_t root[kSlots], entry_root[kEntries];
  int32_t kind[kSlots], step[kSlots], spawn[kSlots], completion[kSlots];
  int32_t symbol[kSlots];  // next input, as a row of the table
  int32_t source[kSlots];  // entry whose states a session begins with, kInitial or kNone
  int32_t entry[kSlots];   // of a root that has completions, or kNone
  int32_t entry_kind[kEntries], entry_step[kEntries], entry_next[kEntries];
  int32_t entry_symbol[kEntries];  // the root's next input, or kNone where it has ended
  int32_t row_steps, states, iterations;
  uint32_t running;
};

constexpr int32_t kNone = -1, kInitial = -2;

// The shared memory of a thread block.
struct SmallMemory {
  Control* control;
  double* log_times;  // [warps, blocks]
  uint64_t* taken;    // [warps, blocks]
  int64_t* slates;    // [warps, K]
  float* logits;      // [warps, K + 1, up to a multiple of four]
  float* states;      // [slots, state_width]
  float* scores;      // [slots, score_width]
  float* entries;     // [entries, state_width + score_width]
  float* spare;       // [slots, spare_width]
  float* weights;     // [shared_weights]
};

}  // namespace irecgan::cuda
