// States and scores of the sessions of one thread block: products of their state vectors with packed weights.
#pragma once

#include "../math/gru_cell.h"
#include "../math/lstm_cell.h"
#include "rollout_small_plan.h"
#include "warp.h"

namespace irecgan::cuda {

constexpr int kRows = 8;  // of the states that a warp multiplies at a time
constexpr int kRowGroups = kSlots / kRows;

struct alignas(16) Four {
  float x[4];
};

// The place of a packed layer, and a column of it that a lane works on.
__device__ __forceinline__ const float* weights_of(const Packed& p, const SmallMemory& memory) {
  return p.shared_at < 0 ? p.global : memory.weights + p.shared_at;
}

// sums[g][r] = bias + row r of the states times column `column` + g * `gate` of the layer. A weight that is read serves
// kRows states, a state that is read serves the 32 columns of the warp.
template <int kGates>
__device__ __forceinline__ void multiply(float (&sums)[kGates][kRows], const Packed& p, const float* weights,
                                         const float* states, int state_width, int column, int gate) {
  const float* bias = weights + static_cast<int64_t>(p.inner) * p.columns + column;
#pragma unroll
  for (int g = 0; g < kGates; ++g)
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[g][r] = bias[g * gate];
  for (int k = 0; k < p.inner; k += 4) {
    float w[kGates][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int g = 0; g < kGates; ++g) w[g][i] = weights[(k + i) * p.columns + column + g * gate];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Four s = *reinterpret_cast<const Four*>(states + r * state_width + k);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int g = 0; g < kGates; ++g) sums[g][r] += s.x[i] * w[g][i];
    }
  }
}

// New h of one layer into `spare`, new c in place: a unit's c is read by the thread alone that writes it.
template <bool kLstm>
__device__ void step_layer(const SmallPlan& plan, const SmallMemory& memory, const SmallModel& model, int layer,
                           int warp, int lane) {
  constexpr int kGates = kLstm ? 4 : 3;
  const int groups = (model.hidden + kWarp - 1) / kWarp;
  const int width = plan.state_width;
  for (int task = warp; task < groups * kRowGroups; task += kSmallWarps) {
    const int first = task % kRowGroups * kRows, unit = task / kRowGroups * kWarp + lane;
    if ((memory.control->running >> first & ((1u << kRows) - 1)) == 0) continue;
    const int column = unit < model.hidden ? unit : model.hidden - 1;
    float* states = memory.states + first * width;
    float x[kGates][kRows], h[kGates][kRows];
    multiply(h, model.recurrent[layer], weights_of(model.recurrent[layer], memory), states + model.state_at[layer],
             width, column, model.hidden);
    if (layer == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float* row =
            model.table + static_cast<int64_t>(memory.control->symbol[first + r]) * kGates * model.hidden;
#pragma unroll
        for (int g = 0; g < kGates; ++g) x[g][r] = row[g * model.hidden + column];
      }
    } else {
      multiply(x, model.input[layer], weights_of(model.input[layer], memory), states + model.state_at[layer - 1], width,
               column, model.hidden);
    }
    if (unit >= model.hidden) continue;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float* state = states + r * width + model.state_at[layer] + unit;
      float* next = memory.spare + (first + r) * plan.spare_width + unit;
      if constexpr (kLstm) {
        const LstmUnit<float> result =
            lstm_unit(x[0][r] + h[0][r], x[1][r] + h[1][r], x[2][r] + h[2][r], x[3][r] + h[3][r], state[model.stride]);
        *next = result.h;
        state[model.stride] = result.c;
      } else {
        *next = gru_unit(x[0][r], x[1][r], x[2][r], h[0][r], h[1][r], h[2][r], *state);
      }
    }
  }
}

__device__ inline void keep_new_states(const SmallPlan& plan, const SmallMemory& memory, const SmallModel& model,
                                       int layer) {
  for (int i = static_cast<int>(threadIdx.x); i < kSlots * model.hidden; i += kSmallThreads) {
    const int slot = i / model.hidden, unit = i % model.hidden;
    memory.states[slot * plan.state_width + model.state_at[layer] + unit] =
        memory.spare[slot * plan.spare_width + unit];
  }
}

// What the models' heads make of the states of the top layer.
__device__ inline void score_states(const SmallPlan& plan, const SmallMemory& memory, int warp, int lane) {
  int begin = 0;
  for (int which = 0; which < plan.op.model_count; ++which) {
    const SmallModel& model = plan.models[which];
    const int tasks = (model.head.columns + kWarp - 1) / kWarp * kRowGroups;
    // Tasks are numbered through all models, so that no warp waits for the others between them.
    for (int task = (warp + kSmallWarps - begin % kSmallWarps) % kSmallWarps; task < tasks; task += kSmallWarps) {
      const int first = task % kRowGroups * kRows, mine = task / kRowGroups * kWarp + lane;
      if ((memory.control->running >> first & ((1u << kRows) - 1)) == 0) continue;
      const int column = mine < model.head.columns ? mine : model.head.columns - 1;
      float sums[1][kRows];
      multiply(sums, model.head, weights_of(model.head, memory),
               memory.states + first * plan.state_width + model.state_at[plan.op.layers - 1], plan.state_width, column,
               0);
      if (mine >= model.head.columns) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        memory.scores[(first + r) * plan.score_width + model.scores_at + mine] = sums[0][r];
    }
    begin += tasks;
  }
}

template <bool kLstm>
__device__ void step_states(const SmallPlan& plan, const SmallMemory& memory, int warp, int lane) {
  for (int which = 0; which < plan.op.model_count; ++which) {
    const SmallModel& model = plan.models[which];
    for (int layer = 0; layer < plan.op.layers; ++layer) {
      step_layer<kLstm>(plan, memory, model, layer, warp, lane);
      __syncthreads();
      keep_new_states(plan, memory, model, layer);
      __syncthreads();
    }
  }
  score_states(plan, memory, warp, lane);
}

}  // namespace irecgan::cuda
