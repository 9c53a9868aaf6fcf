// The memory of a rollout that is played step by step.
#pragma once

#include "cutter.h"
#include "products.h"
#include "rollout.h"

namespace irecgan::cuda {

constexpr int64_t kKeptItems = 1024;  // of a larger catalogue no logits are kept; the blocks that win are made again
constexpr int kPlayThreads = 128;
constexpr int kPlayWarps = kPlayThreads / 32;
constexpr int kPlayBlocks = 8;  // thread blocks per multiprocessor

// A session under way: a root or a completion.
struct StepRow {
  double score_sum;
  int64_t root;
  int32_t spawn, completion;
  int32_t parent;  // row of the previous step's states
  int32_t symbol;  // next input, as a row of the embedding
};

// A step's sizes. The host never reads them.
struct StepCounts {
  int32_t rows;     // sessions
  int32_t nodes;    // distinct click histories
  int32_t parents;  // distinct states that go on
};

struct StepModel {
  float* states[2];  // [Z, L, capacity, H] of even and odd steps
  float* inputs;     // [capacity, G H] projections of the input, by node
  float* recurrent;  // [capacity, G H] projections of h, by parent
  float* query;      // [capacity, E]; none of the agent
};

struct StepsPlan {
  Rollout op;
  StepModel models[kModels];
  int64_t first_root, last_root;       // the caller's rows of this pass
  int64_t capacity;                    // sessions of a pass at a time, at most
  int64_t table_size;                  // a power of two
  StepRow* rows[2];                    // [capacity] of even and odd steps
  int32_t* row_slot;                   // [capacity] of the table
  unsigned long long* table_key;       // [table_size] parent << 32 | symbol
  int32_t* table_node;                 // [table_size]
  int32_t *node_parent, *node_symbol;  // [capacity]
  int32_t* parent_slot;                // [max(capacity, S)] place among the parents, or -1
  int32_t* parents;                    // [capacity]
  StepCounts* counts;                  // [W + 1]
  float* reward_query;                 // [capacity, E]
  float *block_max, *block_sum;        // [capacity, blocks] of the agent's logits
  float* logits;                       // [capacity, C], or null
  double* log_times;                   // [warps, blocks]
  uint64_t* taken;                     // [warps, blocks]
  int64_t* slates;                     // [warps, K]
  float* candidates;                   // [warps, K + 1]
  int64_t scratch_bytes;
};

// Sessions that one root and its completions can be at a time.
inline int64_t sessions_per_root(const Rollout& op) { return 1 + op.completions * (op.max_steps - 1); }

// Plan of a pass over `roots` rows; scratch null: sizes only.
inline StepsPlan steps_plan(const Rollout& op, const Device& device, int64_t roots, void* scratch) {
  StepsPlan plan{};
  plan.op = op;
  plan.capacity = roots * sessions_per_root(op);
  plan.table_size = 16;
  while (plan.table_size < 2 * plan.capacity) plan.table_size *= 2;
  const int64_t n = plan.capacity, blocks = block_count(op.items);
  const int64_t warps = static_cast<int64_t>(device.multiprocessors) * kPlayBlocks * kPlayWarps;
  Cutter cutter{static_cast<unsigned char*>(scratch)};
  for (int which = 0; which < op.model_count; ++which) {
    const ModelWeights& from = op.models[which];
    StepModel& model = plan.models[which];
    const int64_t gates = (op.lstm ? 4 : 3) * from.hidden, components = op.lstm ? 2 : 1;
    for (float*& states : model.states) states = cutter.cut<float>(components * op.layers * n * from.hidden);
    model.inputs = cutter.cut<float>(n * gates);
    model.recurrent = cutter.cut<float>(n * gates);
    if (which != kAgent) model.query = cutter.cut<float>(n * from.width);
  }
  for (StepRow*& rows : plan.rows) rows = cutter.cut<StepRow>(n);
  plan.row_slot = cutter.cut<int32_t>(n);
  plan.table_key = cutter.cut<unsigned long long>(plan.table_size);
  plan.table_node = cutter.cut<int32_t>(plan.table_size);
  plan.node_parent = cutter.cut<int32_t>(n);
  plan.node_symbol = cutter.cut<int32_t>(n);
  plan.parent_slot = cutter.cut<int32_t>(n > op.states ? n : op.states);
  plan.parents = cutter.cut<int32_t>(n);
  plan.counts = cutter.cut<StepCounts>(op.max_steps + 1);
  if (op.reward_query.weight != nullptr) plan.reward_query = cutter.cut<float>(n * op.models[kUser].width);
  plan.block_max = cutter.cut<float>(n * blocks);
  plan.block_sum = cutter.cut<float>(n * blocks);
  if (op.items <= kKeptItems) plan.logits = cutter.cut<float>(n * op.items);
  plan.log_times = cutter.cut<double>(warps * blocks);
  plan.taken = cutter.cut<uint64_t>(warps * blocks);
  plan.slates = cutter.cut<int64_t>(warps * op.slate_size);
  plan.candidates = cutter.cut<float>(warps * (op.slate_size + 1));
  plan.scratch_bytes = cutter.used;
  return plan;
}

// Roots of a pass: all of them, or as many as the memory to stay below allows.
inline int64_t roots_per_pass(const Rollout& op, const Device& device) {
  const int64_t one = steps_plan(op, device, 1, nullptr).scratch_bytes;
  const int64_t two = steps_plan(op, device, 2, nullptr).scratch_bytes;
  const int64_t each = two - one > 0 ? two - one : 1;
  const int64_t roots = 1 + (device.scratch_bytes - one) / each;
  return roots < 1 ? 1 : (roots < op.count ? roots : op.count);
}

}  // namespace irecgan::cuda
