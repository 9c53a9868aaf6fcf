// Sizes and places of the persistent rollout kernel's memory, host and device.
#pragma once

#include "../math/race.h"
#include "cutter.h"
#include "rollout_small_plan.h"

namespace irecgan::cuda {

constexpr int64_t kSmallItems = 512;
constexpr int64_t kSmallWeights = 1 << 18;  // floats

IRECGAN_HD int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// Bytes in front of the weights: Cutter::used after the call.
IRECGAN_HD SmallMemory small_memory(const SmallPlan& plan, Cutter& cutter) {
  const int64_t blocks = block_count(plan.op.items), k = plan.op.slate_size;
  SmallMemory m;
  m.control = cutter.cut<Control>(1);
  m.log_times = cutter.cut<double>(kSmallWarps * blocks);
  m.taken = cutter.cut<uint64_t>(kSmallWarps * blocks);
  m.slates = cutter.cut<int64_t>(kSmallWarps * k);
  m.logits = cutter.cut<float>(kSmallWarps * (k + 1));
  m.states = cutter.cut<float>(static_cast<int64_t>(kSlots) * plan.state_width);
  m.scores = cutter.cut<float>(static_cast<int64_t>(kSlots) * plan.score_width);
  m.entries = cutter.cut<float>(static_cast<int64_t>(kEntries) * (plan.state_width + plan.score_width));
  m.spare = cutter.cut<float>(static_cast<int64_t>(kSlots) * plan.spare_width);
  m.weights = cutter.cut<float>(0);
  return m;
}

inline int32_t head_columns(const Rollout& op, int model) {
  const auto items = static_cast<int32_t>(op.items);
  if (model == kAgent) return items;
  return model == kUser && op.reward_query.weight != nullptr ? 2 * (items + 1) : items + 1;
}

// Everything but the shared weights; scratch null: sizes only.
inline SmallPlan small_plan(const Rollout& op, void* scratch) {
  SmallPlan plan{};
  plan.op = op;
  const int32_t gates = op.lstm ? 4 : 3, components = op.lstm ? 2 : 1;
  Cutter cutter{static_cast<unsigned char*>(scratch)};
  plan.next_root = cutter.cut<unsigned long long>(1);
  for (int which = 0; which < op.model_count; ++which) {
    SmallModel& model = plan.models[which];
    model.hidden = static_cast<int32_t>(op.models[which].hidden);
    model.stride = static_cast<int32_t>(round_up(model.hidden, 4));
    plan.spare_width = model.stride > plan.spare_width ? model.stride : plan.spare_width;
    model.table = cutter.cut<float>((op.items + 2) * gates * model.hidden);
    const auto packed = [&](int32_t columns) {
      Packed p{nullptr, model.stride, columns, -1};
      p.global = cutter.cut<float>(p.size());
      return p;
    };
    for (int l = 0; l < op.layers; ++l) {
      model.state_at[l] = plan.state_width;
      plan.state_width += components * model.stride;
      model.recurrent[l] = packed(gates * model.hidden);
      if (l > 0) model.input[l] = packed(gates * model.hidden);
    }
    model.scores_at = plan.score_width;
    model.head = packed(head_columns(op, which));
    plan.score_width += model.head.columns;
  }
  plan.score_width = static_cast<int32_t>(round_up(plan.score_width, 4));
  if (op.model_count > kDiscriminator) plan.matches = cutter.cut<float>((op.items + 1) * (op.items + 1));
  plan.scratch_bytes = cutter.used;
  Cutter shared{nullptr};
  small_memory(plan, shared);
  plan.shared_bytes = shared.used;
  return plan;
}

inline int64_t weight_count(const SmallPlan& plan) {
  int64_t count = 0;
  for (int which = 0; which < plan.op.model_count; ++which) {
    const SmallModel& model = plan.models[which];
    count += model.head.size();
    for (int l = 0; l < plan.op.layers; ++l) count += model.recurrent[l].size() + (l > 0 ? model.input[l].size() : 0);
  }
  return count;
}

// Weights into shared memory, the recurrent ones first, as long as they fit; the others are read through the caches.
inline void place_weights(SmallPlan& plan, int64_t shared_limit) {
  const auto place = [&](Packed& p) {
    const int64_t bytes = round_up(p.size() * static_cast<int64_t>(sizeof(float)), 16);
    if (plan.shared_bytes + bytes > shared_limit) return;
    p.shared_at = plan.shared_weights;
    plan.shared_weights += static_cast<int32_t>(bytes / static_cast<int64_t>(sizeof(float)));
    plan.shared_bytes += bytes;
  };
  for (int which = 0; which < plan.op.model_count; ++which) {
    for (int l = 0; l < plan.op.layers; ++l) {
      place(plan.models[which].recurrent[l]);
      if (l > 0) place(plan.models[which].input[l]);
    }
  }
  for (int which = 0; which < plan.op.model_count; ++which) place(plan.models[which].head);
}

}  // namespace irecgan::cuda
