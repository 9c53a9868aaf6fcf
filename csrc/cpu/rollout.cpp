#include "rollout.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "../math/click.h"
#include "buffer.h"
#include "encoder.h"
#include "histories.h"
#include "scoring.h"
#include "slates.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kSessionGrain = 8;

class Rollout {
 public:
  Rollout(const Runtime& runtime, const RolloutModels& models, const RolloutRows& rows, const RolloutOptions& options,
          const RolloutOutputs& out);
  void run();

 private:
  // Work space of one thread.
  struct Scratch {
    RaceBuffers race;
    std::vector<float> values;   // [K]
    std::vector<float> weights;  // [K + 1]
    std::vector<float> mean;     // [E] of the discriminator
  };

  void project_queries();
  void play_step();
  void play_chunk(int64_t first_node, int64_t last_node);
  SlateDraw draw_of(int64_t session, int64_t first_node);
  void draw_all(const int64_t* sessions, int64_t count, int64_t first_node);
  void play_batch(const int64_t* sessions, int64_t count, int64_t first_node, Scratch& scratch);
  Stream stream(const Session& s) const;
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
  SlateSampler sampler_;
  std::vector<Session> sessions_;
  std::vector<Session> next_;
  Histories histories_;
  Buffer<int64_t> slates_;        // [sessions, K]
  std::vector<double> q_sums_;    // [R, W]
  Buffer<float> reward_queries_;  // [nodes, stride]
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
      sampler_(runtime, models.head, models.agent.hidden, models.items, options.slate_size),
      q_sums_(static_cast<size_t>(rows.count * options.max_steps), 0.0) {
  if (models.has_discriminator) {
    discriminator_.emplace(runtime, models.discriminator, models.cell, models.items, models.states);
    favourites_.emplace(runtime, models.discriminator, models.favourite_query, models.items, true);
  }
  if (models.binary_reward) {
    reward_query_ = PackedLinear(runtime, models.reward_query.weight, models.reward_query.bias, models.user.hidden,
                                 models.user.width);
  }
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t symbol = rows.symbols[r] == kBos ? models.items + 1 : rows.symbols[r];
    sessions_.push_back(Session{r, static_cast<uint32_t>(rows.steps[r]), 0, 0, rows.state_index[r], symbol, 0,
                                rows.score_sums[r], kPad, 0.0f, Fault::kNone});
  }
}

void Rollout::run() {
  while (!sessions_.empty()) {
    histories_.find(sessions_, options_.share);
    user_.step(histories_);
    agent_.step(histories_);
    if (discriminator_) discriminator_->step(histories_);
    project_queries();
    play_step();
    out_.work[0] += static_cast<int64_t>(sessions_.size());
    out_.work[1] += histories_.count();
    out_.work[2] += histories_.count() * (discriminator_ ? 3 : 2);
    out_.work[3] += 1;
    advance();
  }
  for (size_t i = 0; i < q_sums_.size(); ++i) out_.q[i] = static_cast<float>(q_sums_[i]);
}

void Rollout::project_queries() {
  const int64_t nodes = histories_.count();
  clicks_.project(user_.output(), nodes);
  if (!reward_query_.empty())
    reward_query_.apply(runtime_, user_.output(), nullptr, nodes,
                        reward_queries_.reserve(nodes * reward_query_.stride()));
  if (favourites_) favourites_->project(discriminator_->output(), nodes);
}

// The agent's states are projected for a chunk of nodes at a time, and every session of the chunk plays from them.
void Rollout::play_step() {
  slates_.reserve(static_cast<int64_t>(sessions_.size()) * options_.slate_size);
  const int64_t nodes = histories_.count();
  const int64_t chunk = sampler_.states_at_a_time();
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
  sampler_.project(agent_.output() + first_node * agent_.hidden(), last_node - first_node);
  const int64_t first = histories_.first_of(first_node);
  const int64_t count = histories_.first_of(last_node) - first;
  if (sampler_.draws_all()) draw_all(histories_.order() + first, count, first_node);
  runtime_.parallel_for(count, kSessionGrain, [&](int64_t begin, int64_t end) {
    const auto k = static_cast<size_t>(options_.slate_size);
    Scratch scratch{RaceBuffers(models_.items, options_.slate_size), std::vector<float>(k), std::vector<float>(k + 1),
                    std::vector<float>(static_cast<size_t>(models_.discriminator.width))};
    for (int64_t i = first + begin; i < first + end; i += kSmallRows)
      play_batch(histories_.order() + i, std::min(kSmallRows, first + end - i), first_node, scratch);
  });
}

SlateDraw Rollout::draw_of(int64_t session, int64_t first_node) {
  const Session& s = sessions_[static_cast<size_t>(session)];
  return {s.node - first_node, stream(s), slates_.data() + session * options_.slate_size};
}

void Rollout::draw_all(const int64_t* sessions, int64_t count, int64_t first_node) {
  std::vector<SlateDraw> draws;
  for (int64_t j = 0; j < count; ++j) draws.push_back(draw_of(sessions[j], first_node));
  const auto drawn = std::make_unique<bool[]>(draws.size());
  sampler_.draw_all(draws.data(), count, drawn.get());
  for (int64_t j = 0; j < count; ++j) {
    if (!drawn[static_cast<size_t>(j)]) fail(sessions[j], Fault::kAgent);
  }
}

// The step of `count` <= kSmallRows sessions.
void Rollout::play_batch(const int64_t* sessions, int64_t count, int64_t first_node, Scratch& scratch) {
  if (!sampler_.draws_all()) {
    SlateDraw draws[kSmallRows];
    bool drawn[kSmallRows];
    for (int64_t j = 0; j < count; ++j) draws[j] = draw_of(sessions[j], first_node);
    sampler_.draw(draws, count, scratch.race, scratch.values.data(), drawn);
    for (int64_t j = 0; j < count; ++j) {
      if (!drawn[j]) fail(sessions[j], Fault::kAgent);
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    if (sessions_[static_cast<size_t>(sessions[j])].fault == Fault::kNone)
      play_session(sessions[j], scratch.weights.data(), scratch.mean.data());
  }
}

Stream Rollout::stream(const Session& s) const {
  return Stream{options_.seed, rows_.ids[s.root], s.step, s.spawn, s.completion};
}

// Click, reward and D's score of one session's step, whose slate is drawn.
void Rollout::play_session(int64_t session, float* weights, float* mean) {
  Session& s = sessions_[static_cast<size_t>(session)];
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
      const float logit = kernel_.dot(reward_queries_.data() + s.node * reward_query_.stride(),
                                      models_.user.embedding + s.clicked * width, width);
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
