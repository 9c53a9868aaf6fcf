#include "rollout.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

#include "../math/click.h"
#include "encoder.h"
#include "race_buffers.h"
#include "scoring.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kLogitsBudget = 1 << 22;  // floats of agent logits held at a time (16 MiB)
constexpr int64_t kSessionGrain = 8;
constexpr int64_t kPackedItems = 1024;  // a larger head is left to the runtime's product, which packs as it goes

enum class Fault { kNone, kAgent, kUser, kDiscriminator };

// A session under way: a root (a row of the caller's) or a completion of one.
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

class Rollout {
 public:
  Rollout(const Runtime& runtime, const RolloutModels& models, const RolloutRows& rows, const RolloutOptions& options,
          const RolloutOutputs& out);
  void run();

 private:
  void find_nodes();
  void find_parents();
  void group_by_node();
  void project_queries();
  void play_step();
  void play_chunk(int64_t first_node, int64_t last_node);
  BlockStats<float> stats_of(int64_t node);
  Stream stream(const Session& s) const;
  void draw_slate(int64_t session, int64_t first_node, RaceBuffers& buffers, float* values);
  void draw_small_slates(const int64_t* sessions, int64_t count, int64_t first_node, RaceBuffers& buffers,
                         float* values);
  void play_session(int64_t session, float* weights, float* mean);
  void fail(int64_t session, Fault fault);
  void record(const Session& s);
  void advance();
  void finish(const Session& s, bool censored);

  bool is_root(const Session& s) const { return s.spawn == 0; }
  int64_t column(const Session& s) const { return static_cast<int64_t>(s.step) - rows_.steps[s.root]; }

  const Runtime& runtime_;
  const RolloutModels& models_;
  const RolloutRows& rows_;
  const RolloutOptions& options_;
  const RolloutOutputs& out_;
  const Kernels& kernel_ = kernels();
  Encoder user_;
  Encoder agent_;
  std::optional<Encoder> discriminator_;
  CandidateScorer clicks_;
  std::optional<CandidateScorer> favourites_;
  PackedLinear reward_query_;  // empty unless rewards are binary
  PackedLinear head_;          // empty unless the catalogue is small
  std::vector<Session> sessions_;
  std::vector<Session> next_;
  Histories histories_;
  std::vector<Node>& nodes_ = histories_.nodes;
  std::vector<int64_t> table_;          // hash table of find_nodes: node or -1
  std::vector<int64_t> slots_;          // of the previous step's nodes among the parents, or -1
  std::vector<int64_t> order_;          // sessions sorted by node
  std::vector<int64_t> first_of_node_;  // [nodes + 1] ranges of order_
  std::vector<int64_t> slates_;         // [sessions, K]
  std::vector<double> q_sums_;          // [R, W]
  std::vector<float> logits_, block_shift_, block_sum_, reward_queries_;
  std::vector<float> scratch_[2];  // of the encoders
  std::atomic<int64_t> bad_session_{-1};
};

Rollout::Rollout(const Runtime& runtime, const RolloutModels& models, const RolloutRows& rows,
                 const RolloutOptions& options, const RolloutOutputs& out)
    : runtime_(runtime),
      models_(models),
      rows_(rows),
      options_(options),
      out_(out),
      user_(runtime, models.user, models.cell, models.items, models.states),
      agent_(runtime, models.agent, models.cell, models.items, models.states),
      clicks_(runtime, models.user, models.click_query, models.items, false),
      q_sums_(static_cast<size_t>(rows.count * options.max_steps), 0.0) {
  if (models.has_discriminator) {
    discriminator_.emplace(runtime, models.discriminator, models.cell, models.items, models.states);
    favourites_.emplace(runtime, models.discriminator, models.favourite_query, models.items, true);
  }
  if (models.binary_reward) {
    reward_query_ = PackedLinear(runtime, models.reward_query.weight, models.reward_query.bias, models.user.hidden,
                                 models.user.width);
  }
  if (models.items <= kPackedItems)
    head_ = PackedLinear(runtime, models.head.weight, models.head.bias, models.agent.hidden, models.items);
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t symbol = rows.symbols[r] == kBos ? models.items + 1 : rows.symbols[r];
    sessions_.push_back(Session{r, static_cast<uint32_t>(rows.steps[r]), 0, 0, rows.state_index[r], symbol, 0,
                                rows.score_sums[r], kPad, 0.0f, Fault::kNone});
  }
}

void Rollout::run() {
  while (!sessions_.empty()) {
    find_nodes();
    group_by_node();
    find_parents();
    user_.step(histories_, scratch_);
    agent_.step(histories_, scratch_);
    if (discriminator_) discriminator_->step(histories_, scratch_);
    project_queries();
    play_step();
    out_.work[0] += static_cast<int64_t>(sessions_.size());
    out_.work[1] += static_cast<int64_t>(nodes_.size());
    out_.work[2] += static_cast<int64_t>(nodes_.size()) * (discriminator_ ? 3 : 2);
    out_.work[3] += 1;
    advance();
  }
  for (size_t i = 0; i < q_sums_.size(); ++i) out_.q[i] = static_cast<float>(q_sums_[i]);
}

// One node per distinct (parent state, symbol): the click histories form a trie, and a step projects each node once.
void Rollout::find_nodes() {
  nodes_.clear();
  size_t size = 16;
  while (size < 2 * sessions_.size()) size *= 2;
  if (options_.share) table_.assign(size, -1);
  for (Session& s : sessions_) {
    if (!options_.share) {
      s.node = static_cast<int64_t>(nodes_.size());
      nodes_.push_back(Node{s.parent, s.symbol, 0});
      continue;
    }
    const uint64_t key = (static_cast<uint64_t>(s.parent) * 0x9E3779B97F4A7C15u) ^
                         (static_cast<uint64_t>(s.symbol) * 0xC2B2AE3D27D4EB4Fu);
    size_t slot = static_cast<size_t>(key ^ key >> 29) & (size - 1);
    while (table_[slot] >= 0) {
      const Node& node = nodes_[static_cast<size_t>(table_[slot])];
      if (node.parent == s.parent && node.symbol == s.symbol) break;
      slot = (slot + 1) & (size - 1);
    }
    if (table_[slot] < 0) {
      table_[slot] = static_cast<int64_t>(nodes_.size());
      nodes_.push_back(Node{s.parent, s.symbol, 0});
    }
    s.node = table_[slot];
  }
}

void Rollout::group_by_node() {
  first_of_node_.assign(nodes_.size() + 1, 0);
  for (const Session& s : sessions_) ++first_of_node_[static_cast<size_t>(s.node) + 1];
  for (size_t n = 0; n < nodes_.size(); ++n) first_of_node_[n + 1] += first_of_node_[n];
  order_.resize(sessions_.size());
  std::vector<int64_t>& at = table_;  // free until the next step
  at.assign(first_of_node_.begin(), first_of_node_.end());
  for (size_t i = 0; i < sessions_.size(); ++i)
    order_[static_cast<size_t>(at[static_cast<size_t>(sessions_[i].node)]++)] = static_cast<int64_t>(i);
}

// Distinct parents: the products of a state with the recurrent weights serve all its children.
void Rollout::find_parents() {
  std::vector<int64_t>& parents = histories_.parents;
  parents.clear();
  int64_t last = -1;
  for (const Node& node : nodes_) last = std::max(last, node.parent);
  slots_.assign(static_cast<size_t>(last + 1), -1);
  for (Node& node : nodes_) {
    int64_t& slot = slots_[static_cast<size_t>(node.parent)];
    if (slot < 0 || !options_.share) {
      slot = static_cast<int64_t>(parents.size());
      parents.push_back(node.parent);
    }
    node.slot = slot;
  }
}

void Rollout::project_queries() {
  const auto nodes = static_cast<int64_t>(nodes_.size());
  clicks_.project(user_.output(), nodes);
  if (!reward_query_.empty())
    reward_query_.apply(runtime_, user_.output(), nullptr, nodes, reserve(reward_queries_, nodes * models_.user.width));
  if (favourites_) favourites_->project(discriminator_->output(), nodes);
}

// Agent logits are made for a chunk of nodes at a time, and every session of the chunk plays from them.
void Rollout::play_step() {
  slates_.resize(sessions_.size() * static_cast<size_t>(options_.slate_size));
  const auto nodes = static_cast<int64_t>(nodes_.size());
  const int64_t chunk = std::max<int64_t>(1, kLogitsBudget / models_.items);
  for (int64_t first = 0; first < nodes; first += chunk) play_chunk(first, std::min(nodes, first + chunk));
  const int64_t bad = bad_session_.load();
  if (bad < 0) return;
  const Session& s = sessions_[static_cast<size_t>(bad)];
  std::string rule = "agent logits must hold at least slate_size = " + std::to_string(options_.slate_size) +
                     " finite entries and no NaN or +inf";
  if (s.fault == Fault::kUser) rule = "user logits must be finite";
  if (s.fault == Fault::kDiscriminator) rule = "discriminator scores must be finite";
  throw std::runtime_error(rule + ": row " + std::to_string(rows_.ids[s.root]) + ", step " + std::to_string(s.step));
}

void Rollout::play_chunk(int64_t first_node, int64_t last_node) {
  const int64_t items = models_.items;
  const int64_t blocks = block_count(items);
  const int64_t count = last_node - first_node;
  reserve(logits_, count * items);
  reserve(block_shift_, count * blocks);
  reserve(block_sum_, count * blocks);
  const float* states = agent_.output() + first_node * models_.agent.hidden;
  if (head_.empty()) {
    runtime_.linear(logits_.data(), states, models_.head.weight, models_.head.bias, count, models_.agent.hidden, items);
  } else {
    head_.apply(runtime_, states, nullptr, count, logits_.data());
  }
  const bool small = items <= kBlock;
  runtime_.parallel_for(small ? 0 : count, 1 + 4096 / items, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) kernel_.block_stats_f32(logits_.data() + n * items, items, stats_of(n));
  });
  const int64_t first = first_of_node_[static_cast<size_t>(first_node)];
  const int64_t last = first_of_node_[static_cast<size_t>(last_node)];
  runtime_.parallel_for(last - first, kSessionGrain, [&](int64_t begin, int64_t end) {
    const int64_t k = options_.slate_size;
    std::vector<float> values(static_cast<size_t>(kSmallRows * k)), weights(static_cast<size_t>(k + 1)),
        mean(static_cast<size_t>(models_.discriminator.width));
    RaceBuffers buffers(items, k);
    for (int64_t i = first + begin; i < first + end; i += kSmallRows) {
      const int64_t batch = std::min(kSmallRows, first + end - i);
      const int64_t* sessions = order_.data() + i;
      if (small) {
        draw_small_slates(sessions, batch, first_node, buffers, values.data());
      } else {
        for (int64_t j = 0; j < batch; ++j) draw_slate(sessions[j], first_node, buffers, values.data());
      }
      for (int64_t j = 0; j < batch; ++j) play_session(sessions[j], weights.data(), mean.data());
    }
  });
}

BlockStats<float> Rollout::stats_of(int64_t node) {
  const int64_t blocks = block_count(models_.items);
  return {block_shift_.data() + node * blocks, block_sum_.data() + node * blocks};
}

Stream Rollout::stream(const Session& s) const {
  return Stream{options_.seed, rows_.ids[s.root], s.step, s.spawn, s.completion};
}

// The slate of one session, from its node's logits and their statistics.
void Rollout::draw_slate(int64_t session, int64_t first_node, RaceBuffers& buffers, float* values) {
  const Session& s = sessions_[static_cast<size_t>(session)];
  const int64_t k = options_.slate_size, n = s.node - first_node;
  if (kernel_.race_f32(logits_.data() + n * models_.items, models_.items, k, stats_of(n), stream(s), buffers.scratch(),
                       values, slates_.data() + session * k) != k) {
    fail(session, Fault::kAgent);
  }
}

// The slates of `count` <= kSmallRows sessions where the catalogue is one block.
void Rollout::draw_small_slates(const int64_t* sessions, int64_t count, int64_t first_node, RaceBuffers& buffers,
                                float* values) {
  const int64_t k = options_.slate_size;
  const float* logits[kSmallRows];
  float* to_values[kSmallRows];
  int64_t* to_slates[kSmallRows];
  Stream streams[kSmallRows];
  bool plain[kSmallRows];
  for (int64_t j = 0; j < count; ++j) {
    const Session& s = sessions_[static_cast<size_t>(sessions[j])];
    logits[j] = logits_.data() + (s.node - first_node) * models_.items;
    to_values[j] = values + j * k;
    to_slates[j] = slates_.data() + sessions[j] * k;
    streams[j] = stream(s);
  }
  kernel_.small_races(logits, count, models_.items, k, streams, to_values, to_slates, plain);
  for (int64_t j = 0; j < count; ++j) {
    if (plain[j]) continue;
    // Several threads may meet at one node; its statistics go to memory of this call.
    float shift, sum;
    kernel_.block_stats_f32(logits[j], models_.items, {&shift, &sum});
    if (kernel_.race_f32(logits[j], models_.items, k, {&shift, &sum}, streams[j], buffers.scratch(), to_values[j],
                         to_slates[j]) != k) {
      fail(sessions[j], Fault::kAgent);
    }
  }
}

// Click, reward and D's score of one session's step, whose slate is drawn.
void Rollout::play_session(int64_t session, float* weights, float* mean) {
  Session& s = sessions_[static_cast<size_t>(session)];
  if (s.fault != Fault::kNone) return;
  const int64_t k = options_.slate_size;
  const int64_t* slate = slates_.data() + session * k;
  const ClickUniforms uniforms = click_uniforms(stream(s));
  const int64_t choice = clicks_.click(s.node, slate, k, uniforms.choice, weights);
  if (choice == kNotANumber) {
    fail(session, Fault::kUser);
    return;
  }
  s.clicked = choice == k ? kEnd : slate[choice];
  s.reward = 0.0f;
  if (s.clicked != kEnd) {
    s.reward = 1.0f;
    if (models_.binary_reward) {
      const int64_t width = models_.user.width;
      const float logit =
          kernel_.dot(reward_queries_.data() + s.node * width, models_.user.embedding + s.clicked * width, width);
      s.reward = earns(uniforms.reward, logit) ? 1.0f : 0.0f;
    }
  }
  if (!favourites_) return;
  const int64_t clicked = s.clicked == kEnd ? models_.items : s.clicked;
  const float match = favourites_->step_score(s.node, slate, k, clicked, weights, mean);
  s.score_sum += match * (models_.reward_scale * s.reward + models_.reward_shift);
  if (!std::isfinite(s.score_sum)) fail(session, Fault::kDiscriminator);
}

void Rollout::fail(int64_t session, Fault fault) {
  sessions_[static_cast<size_t>(session)].fault = fault;
  int64_t none = -1;
  bad_session_.compare_exchange_strong(none, session);
}

void Rollout::record(const Session& s) {
  const int64_t k = options_.slate_size;
  const int64_t at = s.root * options_.max_steps + column(s);
  std::copy_n(slates_.data() + (&s - sessions_.data()) * k, k, out_.slates + at * k);
  out_.clicks[at] = s.clicked;
  out_.rewards[at] = s.reward;
  out_.lengths[s.root] += 1;
}

// Compaction: who goes on, and the completions of the roots that do. Sessions keep their order, so that sums do not
// depend on the number of threads.
void Rollout::advance() {
  next_.clear();
  for (const Session& s : sessions_) {
    if (is_root(s)) record(s);
    const bool capped = static_cast<int64_t>(s.step) + 1 == options_.max_steps;
    if (s.clicked == kEnd || capped) {
      finish(s, s.clicked != kEnd);
      continue;
    }
    Session going = s;
    going.step += 1;
    going.parent = s.node;
    going.symbol = s.clicked;
    next_.push_back(going);
    if (!is_root(s)) continue;
    going.spawn = s.step + 1;
    for (int64_t n = 0; n < options_.completions; ++n) {
      going.completion = static_cast<uint32_t>(n);
      next_.push_back(going);
    }
  }
  std::swap(sessions_, next_);
}

void Rollout::finish(const Session& s, bool censored) {
  if (is_root(s)) out_.censored[s.root] = censored;
  if (!discriminator_) return;
  const double d = session_score(s.score_sum, static_cast<int64_t>(s.step) + 1);
  double* q = q_sums_.data() + s.root * options_.max_steps;
  if (is_root(s)) {
    out_.scores[s.root] = static_cast<float>(d);
    q[column(s)] = d;
  } else {
    q[static_cast<int64_t>(s.spawn) - 1 - rows_.steps[s.root]] += d / static_cast<double>(options_.completions);
  }
}

}  // namespace

void rollout(const Runtime& runtime, const RolloutModels& models, const RolloutRows& rows,
             const RolloutOptions& options, const RolloutOutputs& out) {
  Rollout(runtime, models, rows, options, out).run();
}

}  // namespace irecgan::cpu
