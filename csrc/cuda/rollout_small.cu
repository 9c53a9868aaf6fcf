// The rollout of small models as one persistent kernel. A thread block has 32 slots, and a session that ends leaves its
// slot to the next one: no product is spent on a finished session, no block waits for another, and nothing of a session
// but its outputs goes to memory.
//
// The N completions of a root's step begin in the state that the root itself has after it. So a root that has made a
// step leaves its states and scores in an entry of the block, from where the completions' first steps are drawn without
// a product; the sessions that survive them, and the root itself, go on from there in slots. States are not shared
// beyond that: at the quick preset's size a step's products cost about as much as its draws, so that a hash table
// across blocks could save half of half at best, less what its synchronisation takes.
#include "launch.h"
#include "rollout_play.h"
#include "rollout_small_layout.h"
#include "rollout_small_pack.h"
#include "rollout_small_schedule.h"
#include "rollout_small_step.h"

namespace irecgan::cuda {
namespace {

// The scores of one session's state: what play_click asks.
struct TableScores {
  const SmallPlan& plan;
  const float* scores;  // [score_width]

  __device__ float click(int64_t candidate) const { return scores[plan.models[kUser].scores_at + candidate]; }
  __device__ float reward(int64_t item) const {
    return scores[plan.models[kUser].scores_at + plan.op.items + 1 + item];
  }
  __device__ float favourite(int64_t candidate) const {
    return scores[plan.models[kDiscriminator].scores_at + candidate];
  }
  __device__ float match(int64_t a, int64_t b) const { return plan.matches[b * (plan.op.items + 1) + a]; }
};

// One step of a session by a warp; its slate is in the warp's part of memory.slates.
__device__ Played play(const SmallPlan& plan, const SmallMemory& memory, const Session& s, const float* scores,
                       int warp, int lane) {
  const Rollout& op = plan.op;
  const int64_t blocks = block_count(op.items);
  const LogitRow source{scores + plan.models[kAgent].scores_at, op.items};
  const Stream stream = session_stream(op, s);
  float* logits = memory.logits + warp * (op.slate_size + 1);
  const Race<float> race{blocks,
                         op.slate_size,
                         memory.log_times + warp * blocks,
                         memory.taken + warp * blocks,
                         logits,
                         memory.slates + warp * op.slate_size,
                         nullptr};
  for (int64_t b = 0; b < blocks; ++b) {
    float x[2];
    source.load(b, lane, x);
    const double log_time = log_gap(exponential_fast(first_uniform(stream, b)), block_stats<kWarp>(x));
    if (lane == 0) race.log_times[b] = log_time;
    if (lane == 0) race.taken[b] = 0;
  }
  __syncwarp();
  run_race(race, stream, source, lane);
  __syncwarp();  // the slate is seen by all lanes
  if (lane == 0) {
    atomicAdd(&memory.control->row_steps, 1);
    atomicMax(&memory.control->iterations, static_cast<int32_t>(s.step - op.steps[s.root] + 1));
  }
  return play_click(op, TableScores{plan, scores}, s, race.indices, logits, lane);
}

__device__ Session session_of(const Control& c, int slot) {
  return Session{c.root[slot], c.step[slot], c.spawn[slot], c.completion[slot], c.sum[slot]};
}

// The first steps of completions, from the scores that their root left.
__device__ void draw_first_steps(const SmallPlan& plan, const SmallMemory& memory, int warp, int lane) {
  Control& c = *memory.control;
  for (int slot = warp; slot < kSlots; slot += kSmallWarps) {
    if (c.kind[slot] != kFirstDraw) continue;
    const Session s = session_of(c, slot);
    const float* entry = memory.entries + c.source[slot] * (plan.state_width + plan.score_width);
    const Played played = play(plan, memory, s, entry + plan.state_width, warp, lane);
    __syncwarp();  // every lane has read the slot
    if (lane != 0) continue;
    c.kind[slot] = kIdle;
    if (goes_on(plan.op, s, played)) {
      c.kind[slot] = kRunning;
      c.step[slot] = s.step + 1;
      c.symbol[slot] = static_cast<int32_t>(played.click);
      c.sum[slot] = played.score_sum;
    } else {
      finish(plan.op, s, played);
    }
  }
}

// States of the sessions that begin in their slot.
__device__ void load_states(const SmallPlan& plan, const SmallMemory& memory, int warp, int lane) {
  Control& c = *memory.control;
  const Rollout& op = plan.op;
  for (int slot = warp; slot < kSlots; slot += kSmallWarps) {
    const int source = c.source[slot];
    if (c.kind[slot] != kRunning || source == kNone) continue;
    float* to = memory.states + slot * plan.state_width;
    if (source != kInitial) {
      const float* from = memory.entries + source * (plan.state_width + plan.score_width);
      for (int i = lane; i < plan.state_width; i += kWarp) to[i] = from[i];
    } else {
      const int64_t state = op.state_index[c.root[slot]];
      for (int part = 0; part < op.model_count * op.layers * (op.lstm ? 2 : 1); ++part) {
        const int which = part % op.model_count, layer = part / op.model_count % op.layers;
        const int z = part / op.model_count / op.layers;
        const SmallModel& model = plan.models[which];
        const float* from = op.models[which].initial + ((z * op.layers + layer) * op.states + state) * model.hidden;
        for (int i = lane; i < model.stride; i += kWarp)
          to[model.state_at[layer] + z * model.stride + i] = i < model.hidden ? from[i] : 0.0f;
      }
    }
    __syncwarp();  // every lane has read the source
    if (lane == 0) c.source[slot] = kNone;
  }
}

// A root that has made its step leaves states and scores to its completions and to itself.
__device__ void hold(const SmallPlan& plan, const SmallMemory& memory, int slot, const Session& s, const Played& played,
                     int lane) {
  Control& c = *memory.control;
  const bool begins = s.step == plan.op.steps[s.root], further = goes_on(plan.op, s, played);
  const int entry = c.entry[slot];
  float* to = memory.entries + entry * (plan.state_width + plan.score_width);
  const float* state = memory.states + slot * plan.state_width;
  const float* scores = memory.scores + slot * plan.score_width;
  for (int i = lane; i < plan.state_width; i += kWarp) to[i] = state[i];
  for (int i = lane; i < plan.score_width; i += kWarp) to[plan.state_width + i] = scores[i];
  if (lane != 0) return;
  c.kind[slot] = kIdle;
  c.entry_kind[entry] = kHeld;
  c.entry_root[entry] = s.root;
  c.entry_step[entry] = s.step;
  // Completions branch off after a step that the root goes on from: there is none before its first step here.
  c.entry_next[entry] = begins ? static_cast<int32_t>(plan.op.completions) : 0;
  c.entry_symbol[entry] = further ? static_cast<int32_t>(played.click) : kNone;
  c.prefix_sum[entry] = s.score_sum;
  c.own_sum[entry] = played.score_sum;
}

__device__ void play_slots(const SmallPlan& plan, const SmallMemory& memory, int warp, int lane) {
  Control& c = *memory.control;
  for (int slot = warp; slot < kSlots; slot += kSmallWarps) {
    if (c.kind[slot] != kRunning) continue;
    const Session s = session_of(c, slot);
    const Played played = play(plan, memory, s, memory.scores + slot * plan.score_width, warp, lane);
    const bool further = goes_on(plan.op, s, played);
    if (s.spawn == 0) record_step(plan.op, s, played, memory.slates + warp * plan.op.slate_size, lane);
    __syncwarp();  // every lane has read the slot and the slate
    if (lane == 0 && !further) finish(plan.op, s, played);
    if (c.entry[slot] != kNone) {
      hold(plan, memory, slot, s, played, lane);
    } else if (lane == 0 && !further) {
      c.kind[slot] = kIdle;
    } else if (lane == 0) {
      c.step[slot] = s.step + 1;
      c.symbol[slot] = static_cast<int32_t>(played.click);
      c.sum[slot] = played.score_sum;
    }
  }
}

__device__ void load_weights(const SmallMemory& memory, const Packed& p) {
  if (p.shared_at < 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < (p.inner + 1) * p.columns; i += kSmallThreads)
    memory.weights[p.shared_at + i] = p.global[i];
}

__device__ void begin_block(const SmallPlan& plan, const SmallMemory& memory) {
  for (int which = 0; which < plan.op.model_count; ++which) {
    load_weights(memory, plan.models[which].head);
    for (int l = 0; l < plan.op.layers; ++l) {
      load_weights(memory, plan.models[which].recurrent[l]);
      if (l > 0) load_weights(memory, plan.models[which].input[l]);
    }
  }
  Control& c = *memory.control;
  if (threadIdx.x < kSlots) {
    c.kind[threadIdx.x] = kIdle;
    c.symbol[threadIdx.x] = 0;  // idle slots are multiplied along with their neighbours
  }
  if (threadIdx.x < kEntries) c.entry_kind[threadIdx.x] = kFree;
  if (threadIdx.x == 0) c.row_steps = c.states = c.iterations = 0;
}

template <bool kLstm>
__global__ void __launch_bounds__(kSmallThreads) small_rollout_kernel(SmallPlan plan) {
  IRECGAN_DYNAMIC_SHARED(unsigned char, base);
  Cutter cutter{base};
  const SmallMemory memory = small_memory(plan, cutter);
  Control& c = *memory.control;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  begin_block(plan, memory);
  __syncthreads();
  for (;;) {
    if (threadIdx.x == 0) c.running = schedule(plan, c) ? 1 : 0;
    __syncthreads();
    if (c.running == 0) break;
    draw_first_steps(plan, memory, warp, lane);
    __syncthreads();
    load_states(plan, memory, warp, lane);
    if (warp == 0) {
      const unsigned running = __ballot_sync(kAllLanes, c.kind[lane] == kRunning);
      if (lane == 0) {
        c.running = running;
        c.states += __popc(running);
      }
    }
    __syncthreads();
    step_states<kLstm>(plan, memory, warp, lane);
    __syncthreads();
    play_slots(plan, memory, warp, lane);
    __syncthreads();
  }
  if (threadIdx.x != 0 || c.row_steps == 0) return;
  count_work(plan.op, 0, c.row_steps);
  count_work(plan.op, 1, c.states);
  count_work(plan.op, 2, static_cast<int64_t>(c.states) * plan.op.model_count);
  atomicMax(reinterpret_cast<Counter*>(plan.op.work + 3), static_cast<Counter>(c.iterations));
}

__global__ void __launch_bounds__(kPackThreads) clear_kernel(uint32_t* words, int64_t count) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kPackThreads)
    words[i] = 0;
}

}  // namespace

bool fits_small(const Rollout& op, const Device& device) {
  if (op.layers > kSmallLayers || op.items > kSmallItems) return false;
  for (int which = 0; which < op.model_count; ++which)
    if (op.models[which].hidden > kSmallItems) return false;
  const SmallPlan plan = small_plan(op, nullptr);
  // A weight that is read through the caches serves 32 sessions, which keeps the products ahead of the reads.
  return plan.shared_bytes <= device.shared_bytes / 2 && weight_count(plan) <= kSmallWeights;
}

int64_t small_scratch_bytes(const Rollout& op) { return small_plan(op, nullptr).scratch_bytes; }

cudaError_t launch_small(cudaStream_t stream, const Rollout& op, const Device& device, void* scratch) {
  SmallPlan plan = small_plan(op, scratch);
  place_weights(plan, device.shared_bytes);
  IRECGAN_LAUNCH(clear_kernel, 64, kPackThreads, 0, stream, static_cast<uint32_t*>(scratch), plan.scratch_bytes / 4);
  cudaError_t error = cudaGetLastError();
  for (int which = 0; which < op.model_count && error == cudaSuccess; ++which) error = pack(stream, plan, which);
  const auto kernel = op.lstm ? small_rollout_kernel<true> : small_rollout_kernel<false>;
  if (error == cudaSuccess) error = allow_shared(kernel, static_cast<size_t>(plan.shared_bytes));
  if (error != cudaSuccess) return error;
  const int64_t resident = device.multiprocessors * (device.shared_bytes / plan.shared_bytes);
  const auto grid = static_cast<unsigned>(op.count < resident ? op.count : resident);
  IRECGAN_LAUNCH(kernel, grid, kSmallThreads, static_cast<size_t>(plan.shared_bytes), stream, plan);
  return cudaGetLastError();
}

}  // namespace irecgan::cuda
