// What a session of a step reads of its node, and what it leaves to the next step.
#pragma once

#include "rollout_play.h"
#include "rollout_steps_plan.h"

namespace irecgan::cuda {

// States of one model: rows of component z (0: h, 1: c) of layer l after `step` steps.
__device__ __forceinline__ float* new_states(const StepsPlan& plan, int which, int64_t step, int z, int layer) {
  return plan.models[which].states[step & 1] +
         (z * plan.op.layers + layer) * plan.capacity * plan.op.models[which].hidden;
}

__host__ __device__ __forceinline__ const float* old_states(const StepsPlan& plan, int which, int64_t step, int z,
                                                            int layer) {
  const ModelWeights& model = plan.op.models[which];
  const int64_t part = z * plan.op.layers + layer;
  return step == 0 ? model.initial + part * plan.op.states * model.hidden
                   : plan.models[which].states[(step - 1) & 1] + part * plan.capacity * model.hidden;
}

// A row of the agent's logits that is not in memory: a warp makes the blocks that win again.
struct HeadRow {
  const float* state;  // [H]
  Linear head;
  int64_t hidden, items;

  __device__ void load(int64_t block, int lane, float (&x)[2]) const {
    x[0] = x[1] = -kInfinity;
    for (int i = 0; i < kBlock && block * kBlock + i < items; ++i) {
      const float* weight = head.weight + (block * kBlock + i) * hidden;
      float sum = 0;
      for (int64_t k = lane; k < hidden; k += kWarp) sum += state[k] * weight[k];
      sum = group_sum<kWarp>(sum) + head.bias[block * kBlock + i];
      if (i / 2 == lane) x[i % 2] = sum;
    }
  }
};

__device__ __forceinline__ float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// The scores of one node, from its queries: what play_click asks.
struct QueryScores {
  const StepsPlan& plan;
  int64_t node;

  __device__ float match_query(const float* queries, int which, int64_t candidate) const {
    const ModelWeights& model = plan.op.models[which];
    return dot(queries + node * model.width, model.embedding + candidate * model.width, model.width);
  }
  __device__ float click(int64_t c) const { return match_query(plan.models[kUser].query, kUser, c); }
  __device__ float reward(int64_t item) const { return match_query(plan.reward_query, kUser, item); }
  __device__ float favourite(int64_t c) const {
    return match_query(plan.models[kDiscriminator].query, kDiscriminator, c);
  }
  __device__ float match(int64_t a, int64_t b) const {
    const ModelWeights& model = plan.op.models[kDiscriminator];
    return dot(model.embedding + a * model.width, model.embedding + b * model.width, model.width);
  }
};

// The slate of a session into `slate`, its last item -1 if the agent's logits do not allow it. values [K]: scratch.
__device__ inline void draw_slate(const StepsPlan& plan, const Session& s, int64_t node, int64_t step, int64_t warp,
                                  float* values, int64_t* slate, int lane) {
  const Rollout& op = plan.op;
  const int64_t blocks = block_count(op.items), hidden = op.models[kAgent].hidden;
  const Stream stream = session_stream(op, s);
  const Race<float> race{blocks, op.slate_size, plan.log_times + warp * blocks, plan.taken + warp * blocks, values,
                         slate,  nullptr};
  for (int64_t b = lane; b < blocks; b += kWarp) {
    const LogitStats<float> stats{plan.block_max[node * blocks + b], plan.block_sum[node * blocks + b]};
    race.log_times[b] = log_gap(exponential_fast(first_uniform(stream, b)), stats);
    race.taken[b] = 0;
  }
  __syncwarp();
  if (plan.logits != nullptr) {
    run_race(race, stream, LogitRow{plan.logits + node * op.items, op.items}, lane);
  } else {
    const float* state = new_states(plan, kAgent, step, 0, op.layers - 1) + node * hidden;
    run_race(race, stream, HeadRow{state, op.models[kAgent].head, hidden, op.items}, lane);
  }
  __syncwarp();  // the slate is seen by all lanes
}

// A session that goes on, and the completions of a root that does, into the next step's sessions.
__device__ inline void append(const StepsPlan& plan, int64_t step, const Session& s, const Played& played, int64_t node,
                              int lane) {
  const int64_t added = 1 + (s.spawn == 0 ? plan.op.completions : 0);
  int32_t at = lane == 0 ? atomicAdd(&plan.counts[step + 1].rows, static_cast<int32_t>(added)) : 0;
  at = __shfl_sync(kAllLanes, at, 0);
  for (int64_t j = lane; j < added; j += kWarp) {
    StepRow next{played.score_sum,
                 s.root,
                 s.spawn,
                 s.completion,
                 static_cast<int32_t>(node),
                 static_cast<int32_t>(played.click)};
    if (j > 0) {
      next.spawn = s.step + 1;
      next.completion = static_cast<int32_t>(j - 1);
    }
    plan.rows[(step + 1) & 1][at + j] = next;
  }
}

}  // namespace irecgan::cuda
