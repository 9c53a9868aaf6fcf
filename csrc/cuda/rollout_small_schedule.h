// Which session of a thread block of the persistent rollout kernel plays in which slot next.
#pragma once

#include "rollout_play.h"
#include "rollout_small_plan.h"

namespace irecgan::cuda {

enum Kind : int32_t { kIdle, kFirstDraw, kRunning };  // of a slot
enum EntryKind : int32_t { kFree, kHeld, kAway };     // unused; states kept; its root is in a slot

// The next root of the caller's that can start, into a slot. False if there is none.
__device__ inline bool begin_root(const SmallPlan& plan, Control& c, int slot, int entry) {
  for (;;) {
    const auto root = static_cast<int64_t>(atomicAdd(plan.next_root, 1ull));
    if (root >= plan.op.count) return false;
    if (!valid_start(plan.op, root)) {
      refuse_row(plan.op, root);
      continue;
    }
    c.kind[slot] = kRunning;
    c.root[slot] = root;
    c.step[slot] = static_cast<int32_t>(plan.op.steps[root]);
    c.spawn[slot] = c.completion[slot] = 0;
    c.symbol[slot] = static_cast<int32_t>(embedding_row(plan.op, plan.op.symbols[root]));
    c.sum[slot] = plan.op.score_sums[root];
    c.source[slot] = kInitial;
    c.entry[slot] = entry;
    if (entry != kNone) c.entry_kind[entry] = kAway;
    return true;
  }
}

__device__ inline void begin_completion(Control& c, int slot, int entry) {
  c.kind[slot] = kFirstDraw;
  c.root[slot] = c.entry_root[entry];
  c.step[slot] = c.spawn[slot] = c.entry_step[entry];
  c.completion[slot] = c.entry_next[entry]++;
  c.sum[slot] = c.prefix_sum[entry];
  c.source[slot] = entry;
  c.entry[slot] = kNone;
}

__device__ inline void continue_root(Control& c, int slot, int entry) {
  c.kind[slot] = kRunning;
  c.root[slot] = c.entry_root[entry];
  c.step[slot] = c.entry_step[entry] + 1;
  c.spawn[slot] = c.completion[slot] = 0;
  c.symbol[slot] = c.entry_symbol[entry];
  c.sum[slot] = c.own_sum[entry];
  c.source[slot] = c.entry[slot] = entry;
  c.entry_kind[entry] = kAway;
}

// One thread gives the idle slots work: first the completions that wait, then the roots whose completions have all
// begun, then new roots. Returns whether any slot has work.
__device__ inline bool schedule(const SmallPlan& plan, Control& c) {
  const auto completions = static_cast<int32_t>(plan.op.completions);
  uint32_t waiting = 0, ready = 0, unused = 0;
  for (int e = 0; e < kEntries; ++e) {
    if (c.entry_kind[e] == kHeld && c.entry_next[e] == completions && c.entry_symbol[e] == kNone)
      c.entry_kind[e] = kFree;
    if (c.entry_kind[e] == kFree) unused |= 1u << e;
    if (c.entry_kind[e] == kHeld) (c.entry_next[e] < completions ? waiting : ready) |= 1u << e;
  }
  bool any = false, more = true;
  for (int slot = 0; slot < kSlots; ++slot) {
    if (c.kind[slot] == kIdle) {
      if (waiting != 0) {
        const int e = __ffs(static_cast<int>(waiting)) - 1;
        begin_completion(c, slot, e);
        if (c.entry_next[e] == completions) {
          waiting &= waiting - 1;
          if (c.entry_symbol[e] != kNone) ready |= 1u << e;
        }
      } else if (ready != 0) {
        continue_root(c, slot, __ffs(static_cast<int>(ready)) - 1);
        ready &= ready - 1;
      } else if (more && (completions == 0 || unused != 0)) {
        more = begin_root(plan, c, slot, completions == 0 ? kNone : __ffs(static_cast<int>(unused)) - 1);
        if (more) unused &= unused - 1;
      }
    }
    any = any || c.kind[slot] != kIdle;
  }
  return any;
}

}  // namespace irecgan::cuda
