// One step of one session by a warp, once its models' states are there: slate, click, reward, D's step score, and what
// is written of it. All 32 lanes call these functions.
#pragma once

#include "../math/click.h"
#include "race.h"
#include "rollout.h"

namespace irecgan::cuda {

using Counter = unsigned long long;

struct Session {
  int64_t root;  // index of the caller's row
  int32_t step;
  int32_t spawn;       // 0: a root; t + 1: a completion that branched off after step t
  int32_t completion;  // n in 0..N-1; 0 for a root
  double score_sum;    // of the steps before this one
};

struct Played {
  int64_t click;  // an item or END; PAD if a model's output cannot be used
  float reward;
  double score_sum;  // this step included
};

__device__ __forceinline__ Stream session_stream(const Rollout& op, const Session& s) {
  Stream stream = row_stream(op.key, s.root);
  stream.step = static_cast<uint32_t>(s.step);
  stream.spawn = static_cast<uint32_t>(s.spawn);
  stream.completion = static_cast<uint32_t>(s.completion);
  return stream;
}

// Whether a row's start can be read; the host does not look at values on the device.
__device__ __forceinline__ bool valid_start(const Rollout& op, int64_t row) {
  const int64_t symbol = op.symbols[row];
  return op.state_index[row] >= 0 && op.state_index[row] < op.states && op.steps[row] >= 0 &&
         op.steps[row] < op.max_steps && (symbol == kBos || (symbol >= 0 && symbol < op.items));
}

// Row of the embeddings that a symbol or click stands for.
__device__ __forceinline__ int64_t embedding_row(const Rollout& op, int64_t symbol) {
  return symbol == kBos ? op.items + 1 : symbol == kEnd ? op.items : symbol;
}

// Largest of the lanes' values, by which softmax weights are shifted. A NaN shows in their sum.
template <typename F>
__device__ __forceinline__ float largest(int64_t count, float* values, int lane, F value) {
  float max = -kInfinity;
  for (int64_t j = lane; j < count; j += kWarp) {
    values[j] = value(j);
    max = values[j] > max ? values[j] : max;
  }
  return group_max<kWarp>(max);
}

// First candidate whose cumulated weight passes u of the total; the last one with weight if rounding leaves the target
// at the very end; -1 if a logit is NaN or infinite. Lane l alone reads and writes the logits l, l + 32, ...
__device__ inline int64_t pick_candidate(float* logits, int64_t count, float max, double u, int lane) {
  double total = 0;
  for (int64_t j = lane; j < count; j += kWarp) {
    logits[j] = exp_fast(logits[j] - max);
    total += static_cast<double>(logits[j]);
  }
  total = group_sum<kWarp>(total);
  if (!(total < static_cast<double>(kInfinity))) return -1;
  const double target = u * total;
  double before = 0;
  int64_t last = count - 1;
  for (int64_t first = 0; first < count; first += kWarp) {
    const double weight = first + lane < count ? static_cast<double>(logits[first + lane]) : 0.0;
    const double through = before + inclusive_sum(weight, lane);
    const unsigned passed = __ballot_sync(kAllLanes, weight > 0 && through > target);
    if (passed != 0) return first + __ffs(static_cast<int>(passed)) - 1;
    const unsigned weighty = __ballot_sync(kAllLanes, weight > 0);
    if (weighty != 0) last = first + 31 - __clz(static_cast<int>(weighty));
    before = __shfl_sync(kAllLanes, through, kWarp - 1);
  }
  return last;
}

// A row of the agent's logits in memory, as the source of its race.
struct LogitRow {
  const float* logits;  // [C]
  int64_t items;

  __device__ __forceinline__ void load(int64_t block, int lane, float (&x)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t item = block * kBlock + 2 * lane + i;
      x[i] = item < items ? logits[item] : -kInfinity;
    }
  }
};

// Click, reward and D's step score of a session whose slate [K] is drawn; its last item is -1 if it could not be.
// `scores` says what the models make of the session's state:
//   click(c), favourite(c): logits of candidate c, an item or C for END; reward(i): reward logit of item i;
//   match(c, d): product of D's embeddings of two candidates.
// logits [K + 1]: scratch of this warp.
template <typename Scores>
__device__ Played play_click(const Rollout& op, const Scores& scores, const Session& s, const int64_t* slate,
                             float* logits, int lane) {
  const int64_t k = op.slate_size;
  const auto candidate = [&](int64_t j) { return j < k ? slate[j] : op.items; };
  const Played unusable{kPad, __builtin_nanf(""), __builtin_nan("")};
  if (slate[k - 1] < 0) return unusable;
  const ClickUniforms uniforms = click_uniforms(session_stream(op, s));
  const float max = largest(k + 1, logits, lane, [&](int64_t j) { return scores.click(candidate(j)); });
  const int64_t choice = pick_candidate(logits, k + 1, max, uniforms.choice, lane);
  if (choice < 0) return unusable;
  Played played{choice == k ? kEnd : slate[choice], choice == k ? 0.0f : 1.0f, s.score_sum};
  if (choice != k && op.reward_query.weight != nullptr)
    played.reward = earns(uniforms.reward, scores.reward(played.click)) ? 1.0f : 0.0f;
  if (op.model_count <= kDiscriminator) return played;

  const float shift =
      largest(k + 1, logits, lane, [&](int64_t j) { return scores.favourite(candidate(j)) / kFavouriteTemperature; });
  float total = 0, score = 0;
  for (int64_t j = lane; j <= k; j += kWarp) {
    const float weight = exp_fast(logits[j] - shift);
    total += weight;
    score += weight * scores.match(candidate(j), candidate(choice));
  }
  const float factor =
      op.reward_factor.weight == nullptr ? 1.0f : *op.reward_factor.weight * played.reward + *op.reward_factor.bias;
  played.score_sum += static_cast<double>(group_sum<kWarp>(score) / group_sum<kWarp>(total) * factor);
  const bool finite = played.score_sum - played.score_sum == 0;
  return finite ? played : unusable;
}

// A step of a root into the outputs.
__device__ inline void record_step(const Rollout& op, const Session& s, const Played& played, const int64_t* slate,
                                   int lane) {
  const int64_t at = s.root * op.max_steps + s.step - op.steps[s.root];
  if (played.click != kPad)
    for (int64_t j = lane; j < op.slate_size; j += kWarp) op.slates[at * op.slate_size + j] = slate[j];
  if (lane != 0) return;
  op.clicks[at] = played.click;
  op.rewards[at] = played.reward;
}

__device__ __forceinline__ bool goes_on(const Rollout& op, const Session& s, const Played& played) {
  return played.click >= 0 && s.step + 1 < op.max_steps;
}

// Sums of D over completions are kept in steps of 2^-40, since integers add up the same in any order; the top bit marks
// a completion without a score.
constexpr double kScoreUnit = 0x1p-40;
constexpr int64_t kNoScore = INT64_MIN;

// The end of a session, by one lane.
__device__ inline void finish(const Rollout& op, const Session& s, const Played& played) {
  const double d = session_score(played.score_sum, s.step + 1);
  if (s.spawn == 0) {
    op.lengths[s.root] = s.step - op.steps[s.root] + 1;
    op.censored[s.root] = played.click != kEnd;
    if (op.model_count > kDiscriminator) op.scores[s.root] = static_cast<float>(d);
    return;
  }
  auto* sum = reinterpret_cast<Counter*>(op.q_sums + s.root * op.max_steps + s.spawn - 1 - op.steps[s.root]);
  if (d == d) {
    atomicAdd(sum, static_cast<Counter>(d / kScoreUnit + 0.5));
  } else {
    atomicOr(sum, static_cast<Counter>(kNoScore));
  }
}

// The first step of a row that cannot start.
__device__ inline void refuse_row(const Rollout& op, int64_t row) {
  const int64_t at = row * op.max_steps;
  op.rewards[at] = __builtin_nanf("");
  op.lengths[row] = 1;
  op.censored[row] = true;
  if (op.model_count > kDiscriminator) op.scores[row] = __builtin_nanf("");
}

__device__ __forceinline__ void count_work(const Rollout& op, int which, int64_t amount) {
  atomicAdd(reinterpret_cast<Counter*>(op.work + which), static_cast<Counter>(amount));
}

}  // namespace irecgan::cuda
