// The rollout of any models, step by step: a fixed sequence of kernels per step, whose sizes are counted on the device.
// Each step, sessions of equal click history are found to be one node of a trie by a hash table, nodes of one parent
// share its recurrent products, the models step every node once, and a warp per session draws from its node's scores
// and appends what goes on to the next step's sessions: finished ones are gone.
//
// At the paper's size (LSTM, 2 x 512, three models) a state costs some 20 MFLOP and its place in the hash table a few
// atomics, so every state that is shared pays; completions alone share one state of N + 1 each.
#include "../math/gru_cell.h"
#include "../math/lstm_cell.h"
#include "launch.h"
#include "rollout_steps_play.h"

namespace irecgan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned long long kEmpty = ~0ull;

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t thread_count() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

__global__ void __launch_bounds__(kThreads) begin_pass_kernel(StepsPlan plan) {
  const Rollout& op = plan.op;
  for (int64_t i = thread_index(); i <= op.max_steps; i += thread_count())
    plan.counts[i] = StepCounts{i == 0 ? static_cast<int32_t>(plan.last_root - plan.first_root) : 0, 0, 0};
  for (int64_t root = plan.first_root + thread_index(); root < plan.last_root; root += thread_count()) {
    // A row that cannot start goes through the first step with some state, and is refused there.
    const bool valid = valid_start(op, root);
    plan.rows[0][root - plan.first_root] =
        StepRow{op.score_sums[root],
                root,
                0,
                0,
                valid ? static_cast<int32_t>(op.state_index[root]) : 0,
                valid ? static_cast<int32_t>(embedding_row(op, op.symbols[root])) : 0};
  }
}

__global__ void __launch_bounds__(kThreads) clear_tables_kernel(StepsPlan plan) {
  const int64_t parents = plan.capacity > plan.op.states ? plan.capacity : plan.op.states;
  for (int64_t i = thread_index(); i < plan.table_size; i += thread_count()) plan.table_key[i] = kEmpty;
  for (int64_t i = thread_index(); i < parents; i += thread_count()) plan.parent_slot[i] = -1;
}

__device__ __forceinline__ void add_node(const StepsPlan& plan, int64_t node, const StepRow& row) {
  plan.node_parent[node] = row.parent;
  plan.node_symbol[node] = row.symbol;
}

// One node per distinct (parent state, symbol). Which node gets which number is a race, but no result depends on it.
__global__ void __launch_bounds__(kThreads) find_nodes_kernel(StepsPlan plan, int64_t step) {
  StepCounts& counts = plan.counts[step];
  for (int64_t i = thread_index(); i < counts.rows; i += thread_count()) {
    const StepRow row = plan.rows[step & 1][i];
    if (!plan.op.share) {
      add_node(plan, i, row);
      plan.parents[i] = row.parent;
      if (i == 0) counts.nodes = counts.parents = counts.rows;
      continue;
    }
    const auto key = static_cast<unsigned long long>(row.parent) << 32 | static_cast<uint32_t>(row.symbol);
    const unsigned long long mixed = key * 0x9E3779B97F4A7C15ull;
    auto slot = static_cast<int64_t>((mixed ^ mixed >> 32) & static_cast<uint64_t>(plan.table_size - 1));
    for (;; slot = (slot + 1) & (plan.table_size - 1)) {
      const unsigned long long found = atomicCAS(plan.table_key + slot, kEmpty, key);
      if (found == kEmpty) {
        const int32_t node = atomicAdd(&counts.nodes, 1);
        add_node(plan, node, row);
        plan.table_node[slot] = node;
      }
      if (found == kEmpty || found == key) break;
    }
    plan.row_slot[i] = static_cast<int32_t>(slot);
    if (atomicCAS(plan.parent_slot + row.parent, -1, -2) == -1) {
      const int32_t place = atomicAdd(&counts.parents, 1);
      plan.parents[place] = row.parent;
      plan.parent_slot[row.parent] = place;
    }
  }
}

template <bool kLstm>
__global__ void __launch_bounds__(kThreads) cell_kernel(StepsPlan plan, int64_t step, int layer) {
  const auto which = static_cast<int>(blockIdx.y);
  const StepModel& model = plan.models[which];
  const int64_t hidden = plan.op.models[which].hidden, gates = (kLstm ? 4 : 3) * hidden;
  const float* old = old_states(plan, which, step, kLstm ? 1 : 0, layer);
  float* next = new_states(plan, which, step, 0, layer);
  const int64_t size = plan.counts[step].nodes * hidden;
  for (int64_t i = thread_index(); i < size; i += thread_count()) {
    const int64_t node = i / hidden, unit = i - node * hidden, parent = plan.node_parent[node];
    const float* x = model.inputs + node * gates + unit;
    const float* h = model.recurrent + (plan.op.share ? plan.parent_slot[parent] : node) * gates + unit;
    const float before = old[parent * hidden + unit];
    if constexpr (kLstm) {
      const LstmUnit<float> result = lstm_unit(x[0] + h[0], x[hidden] + h[hidden], x[2 * hidden] + h[2 * hidden],
                                               x[3 * hidden] + h[3 * hidden], before);
      next[i] = result.h;
      new_states(plan, which, step, 1, layer)[i] = result.c;
    } else {
      next[i] = gru_unit(x[0], x[hidden], x[2 * hidden], h[0], h[hidden], h[2 * hidden], before);
    }
  }
}

__global__ void __launch_bounds__(kPlayThreads) play_kernel(StepsPlan plan, int64_t step) {
  const Rollout& op = plan.op;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warp = thread_index() / kWarp;
  int64_t* slate = plan.slates + warp * op.slate_size;
  float* candidates = plan.candidates + warp * (op.slate_size + 1);
  for (int64_t i = warp; i < plan.counts[step].rows; i += thread_count() / kWarp) {
    const StepRow row = plan.rows[step & 1][i];
    if (step == 0 && !valid_start(op, row.root)) {
      if (lane == 0) refuse_row(op, row.root);
      continue;
    }
    const int64_t node = op.share ? plan.table_node[plan.row_slot[i]] : i;
    const Session s{row.root, static_cast<int32_t>(op.steps[row.root] + step), row.spawn, row.completion,
                    row.score_sum};
    draw_slate(plan, s, node, step, warp, candidates, slate, lane);
    const Played played = play_click(op, QueryScores{plan, node}, s, slate, candidates, lane);
    if (s.spawn == 0) record_step(op, s, played, slate, lane);
    if (goes_on(op, s, played)) {
      append(plan, step, s, played, node, lane);
    } else if (lane == 0) {
      finish(op, s, played);
    }
    __syncwarp();  // the slate is read before the next one is drawn
  }
}

__global__ void __launch_bounds__(kWarp) count_work_kernel(StepsPlan plan) {
  if (blockIdx.x > 0) return;  // the sums are one warp's work
  int64_t rows = 0, nodes = 0, steps = 0;
  for (int64_t i = threadIdx.x; i < plan.op.max_steps; i += kWarp) {
    rows += plan.counts[i].rows;
    nodes += plan.counts[i].nodes;
    if (plan.counts[i].rows > 0) steps = i + 1;
  }
  rows = group_sum<kWarp>(rows);
  nodes = group_sum<kWarp>(nodes);
  steps = group_max<kWarp>(steps);
  if (threadIdx.x != 0) return;
  count_work(plan.op, 0, rows);
  count_work(plan.op, 1, nodes);
  count_work(plan.op, 2, nodes * plan.op.model_count);
  atomicMax(reinterpret_cast<Counter*>(plan.op.work + 3), static_cast<Counter>(steps));
}

// The products of one layer, and of the heads after the last one.
Products layer_products(const StepsPlan& plan, int64_t step, int layer) {
  Products products;
  const StepCounts* counts = plan.counts + step;
  for (int which = 0; which < plan.op.model_count; ++which) {
    const ModelWeights& model = plan.op.models[which];
    const StepModel& to = plan.models[which];
    const Layer& weights = model.layers[layer];
    const int64_t gates = (plan.op.lstm ? 4 : 3) * model.hidden;
    // h of the layer below, of the step that is being made.
    const float* below = layer == 0 ? model.embedding : old_states(plan, which, step + 1, 0, layer - 1);
    products.add({below, layer == 0 ? plan.node_symbol : nullptr, &counts->nodes, weights.input.weight,
                  weights.input.bias, layer == 0 ? model.width : model.hidden, gates, to.inputs, nullptr, nullptr});
    products.add({old_states(plan, which, step, 0, layer), plan.parents, &counts->parents, weights.recurrent.weight,
                  weights.recurrent.bias, model.hidden, gates, to.recurrent, nullptr, nullptr});
  }
  return products;
}

Products head_products(const StepsPlan& plan, int64_t step) {
  Products products;
  const int32_t* nodes = &plan.counts[step].nodes;
  for (int which = 0; which < plan.op.model_count; ++which) {
    const ModelWeights& model = plan.op.models[which];
    const float* states = old_states(plan, which, step + 1, 0, plan.op.layers - 1);
    if (which == kAgent) {
      products.add({states, nullptr, nodes, model.head.weight, model.head.bias, model.hidden, plan.op.items,
                    plan.logits, plan.block_max, plan.block_sum});
    } else {
      products.add({states, nullptr, nodes, model.head.weight, model.head.bias, model.hidden, model.width,
                    plan.models[which].query, nullptr, nullptr});
    }
    if (which == kUser && plan.reward_query != nullptr)
      products.add({states, nullptr, nodes, plan.op.reward_query.weight, plan.op.reward_query.bias, model.hidden,
                    model.width, plan.reward_query, nullptr, nullptr});
  }
  return products;
}

// Keeps the first error of a sequence of launches, and makes no more after it.
class Launches {
 public:
  explicit Launches(cudaStream_t stream, int multiprocessors) : stream_(stream), processors_(multiprocessors) {}

  template <typename Kernel, typename... Args>
  void add(Kernel kernel, int blocks, int threads, int problems, Args... args) {
    if (error_ != cudaSuccess) return;
    const dim3 grid(static_cast<unsigned>(blocks * processors_), static_cast<unsigned>(problems));
    IRECGAN_LAUNCH(kernel, grid, static_cast<unsigned>(threads), 0, stream_, args...);
    error_ = cudaGetLastError();
  }
  cudaError_t error() const { return error_; }

 private:
  cudaStream_t stream_;
  int processors_;
  cudaError_t error_ = cudaSuccess;
};

void launch_pass(Launches& launches, const StepsPlan& plan) {
  launches.add(begin_pass_kernel, 2, kThreads, 1, plan);
  for (int64_t step = 0; step < plan.op.max_steps; ++step) {
    if (plan.op.share) launches.add(clear_tables_kernel, 2, kThreads, 1, plan);
    launches.add(find_nodes_kernel, 2, kThreads, 1, plan, step);
    for (int layer = 0; layer < plan.op.layers; ++layer) {
      const Products products = layer_products(plan, step, layer);
      launches.add(products_kernel, 2, kTileThreads, products.count, products);
      launches.add(plan.op.lstm ? cell_kernel<true> : cell_kernel<false>, 4, kThreads, plan.op.model_count, plan, step,
                   layer);
    }
    const Products heads = head_products(plan, step);
    launches.add(products_kernel, 4, kTileThreads, heads.count, heads);
    launches.add(play_kernel, kPlayBlocks, kPlayThreads, 1, plan, step);
  }
  launches.add(count_work_kernel, 1, kWarp, 1, plan);
}

}  // namespace

int64_t steps_scratch_bytes(const Rollout& op, const Device& device) {
  return steps_plan(op, device, roots_per_pass(op, device), nullptr).scratch_bytes;
}

cudaError_t launch_steps(cudaStream_t stream, const Rollout& op, const Device& device, void* scratch) {
  const int64_t roots = roots_per_pass(op, device);
  StepsPlan plan = steps_plan(op, device, roots, scratch);
  Launches launches(stream, device.multiprocessors);
  for (plan.first_root = 0; plan.first_root < op.count; plan.first_root = plan.last_root) {
    plan.last_root = plan.first_root + roots < op.count ? plan.first_root + roots : op.count;
    launch_pass(launches, plan);
  }
  return launches.error();
}

}  // namespace irecgan::cuda
