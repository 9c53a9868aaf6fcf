#include "checks.h"

#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <stdexcept>
#include <string_view>

#include "../cpu/rollout.h"
#include "../math/race.h"
#include "tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kMaxRow = int64_t{1} << 40;
constexpr int64_t kMaxStep = int64_t{1} << 16;
constexpr int64_t kMaxItems = int64_t{kBlock} << 24;

std::string shape(const std::vector<int64_t>& sizes) {
  std::string text;
  for (const int64_t size : sizes) text.append(text.empty() ? "" : ", ").append(std::to_string(size));
  return "[" + text + "]";
}

std::string shape(const Tensor& t) {
  const auto sizes = t.sizes();
  return shape(std::vector<int64_t>(sizes.begin(), sizes.end()));
}

const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

// Texts are made only where a rule is broken: a small call takes microseconds, and strings would be a third of them.
[[noreturn]] void reject(std::string_view name, const std::string& rule, const std::string& got) {
  fail(std::string(name) + " must " + rule + ", got " + got);
}

// How the errors name a size: "C (C = 50)".
std::string named(const char* expression, const char* letter, int64_t value) {
  return std::string(expression) + " (" + letter + " = " + std::to_string(value) + ")";
}

std::string indexed(std::string_view name, int64_t index) {
  return std::string(name) + "[" + std::to_string(index) + "]";
}

void check_dtype(const Tensor& t, ScalarType type, std::string_view name) {
  if (t.scalar_type() != type) reject(name, std::string("have dtype ") + dtype_name(type), dtype_name(t.scalar_type()));
}

void check_shape(const Tensor& t, std::initializer_list<int64_t> sizes, std::string_view name) {
  bool same = t.dim() == static_cast<int64_t>(sizes.size());
  int64_t d = 0;
  for (const int64_t size : sizes) same = same && t.size(d++) == size;
  if (!same) reject(name, "have shape " + shape(std::vector<int64_t>(sizes)), shape(t));
}

bool within(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

void check_range(int64_t value, int64_t low, int64_t high, std::string_view name, const char* range) {
  if (!within(value, low, high)) reject(name, std::string("be in ") + range, std::to_string(value));
}

// k, or another number of draws, in 1..C.
void check_draws(int64_t draws, int64_t items, std::string_view name) {
  if (!within(draws, 1, items)) reject(name, "be in " + named("1..C", "C", items), std::to_string(draws));
}

// Values of a small int64 CPU tensor within low..high; `range()` names the range. Device tensors are not read: that
// would synchronise.
template <typename Range>
void check_values(const Tensor& t, int64_t low, int64_t high, std::string_view name, const Range& range) {
  if (!t.is_cpu()) return;
  const Tensor values = dense(t);
  const int64_t* data = values.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    if (!within(data[i], low, high)) reject(indexed(name, i), "be in " + range(), std::to_string(data[i]));
  }
}

void check_row_ids(const Tensor& rows) {
  check_values(rows, 0, kMaxRow - 1, "rows", [] { return std::string("0..2^40 - 1"); });
}

void check_seed(const Tensor& seed) {
  check_dtype(seed, ScalarType::Long, "seed");
  if (seed.numel() != 1) reject("seed", "hold one element", shape(seed));
}

// What keys the noise of `count` rows.
void check_noise(const Tensor& seed, const Tensor& rows, int64_t count, int64_t step) {
  check_seed(seed);
  check_dtype(rows, ScalarType::Long, "rows");
  check_shape(rows, {count}, "rows");
  check_row_ids(rows);
  check_range(step, 0, kMaxStep - 1, "step", "0..65535");
}

// hidden [R, H], weight [C, H], bias [C] of one dtype: float32, on CUDA devices bfloat16 too. C and H at least `least`.
void check_layer(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t least) {
  const ScalarType type = hidden.scalar_type();
  if (hidden.is_cuda()) {
    if (type != ScalarType::Float && type != ScalarType::BFloat16)
      reject("hidden", "have dtype float32 or bfloat16", dtype_name(type));
  } else {
    check_dtype(hidden, ScalarType::Float, "hidden");
  }
  if (hidden.dim() != 2) reject("hidden", "have 2 dimensions [R, H]", shape(hidden));
  if (hidden.size(1) < least) reject("hidden", "have at least one column [R, H]", shape(hidden));
  check_dtype(weight, type, "weight");
  if (weight.dim() != 2) reject("weight", "have 2 dimensions [C, H]", shape(weight));
  const int64_t items = weight.size(0);
  if (items < least) reject("weight", "have at least one row [C, H]", shape(weight));
  check_shape(weight, {items, hidden.size(1)}, "weight");
  if (items > kMaxItems) reject("weight", "have at most 2^30 items", std::to_string(items));
  if (bias) {
    check_dtype(*bias, type, "bias");
    check_shape(*bias, {items}, "bias");
  }
}

// Items that each of `rows` rows may not draw.
void check_exclude(const std::optional<Tensor>& exclude, int64_t rows, int64_t items) {
  if (!exclude) return;
  check_dtype(*exclude, ScalarType::Long, "exclude");
  if (exclude->dim() != 2 || exclude->size(0) != rows) reject("exclude", "have 2 dimensions [R, X]", shape(*exclude));
  check_values(*exclude, cpu::kPad, items - 1, "exclude", [&] { return named("0..C - 1", "C", items) + " or PAD"; });
}

struct EncoderSizes {
  int64_t embedding;
  int64_t hidden;
};

// The parameters that every model begins with: embedding [C + 2, E], then per layer the two weights and two biases.
EncoderSizes check_encoder(const std::vector<Tensor>& p, const std::string& name, const RolloutSizes& sizes,
                           size_t heads) {
  const size_t expected = 1 + 4 * static_cast<size_t>(sizes.layers) + heads;
  if (p.size() != expected) reject(name, "hold " + std::to_string(expected) + " tensors", std::to_string(p.size()));
  for (size_t i = 0; i < p.size(); ++i) {
    // The CUDA kernels convert bfloat16 parameters.
    if (p[i].is_cuda() && p[i].scalar_type() == ScalarType::BFloat16) continue;
    check_dtype(p[i], ScalarType::Float, name + "[" + std::to_string(i) + "]");
  }
  if (p[0].dim() != 2) reject(name + "[0]", "have 2 dimensions [C + 2, E]", shape(p[0]));
  if (p[2].dim() != 2) reject(name + "[2]", "have 2 dimensions [G H, H]", shape(p[2]));
  if (p[0].size(1) < 1) reject(name + "[0]", "have at least one column [C + 2, E]", shape(p[0]));
  if (p[2].size(1) < 1) reject(name + "[2]", "have at least one column [G H, H]", shape(p[2]));
  const EncoderSizes encoder{p[0].size(1), p[2].size(1)};
  check_shape(p[0], {sizes.items + 2, encoder.embedding}, name + "[0]");
  const int64_t gate_width = (sizes.components == 1 ? 3 : 4) * encoder.hidden;
  for (int64_t layer = 0; layer < sizes.layers; ++layer) {
    const auto at = static_cast<size_t>(1 + 4 * layer);
    const std::string index = name + "[" + std::to_string(at) + "..]";
    check_shape(p[at], {gate_width, layer == 0 ? encoder.embedding : encoder.hidden}, index);
    check_shape(p[at + 1], {gate_width, encoder.hidden}, index);
    check_shape(p[at + 2], {gate_width}, index);
    check_shape(p[at + 3], {gate_width}, index);
  }
  return encoder;
}

void check_linear(const std::vector<Tensor>& p, size_t at, int64_t out, int64_t in, const std::string& name) {
  check_shape(p[at], {out, in}, name + "[" + std::to_string(at) + "]");
  check_shape(p[at + 1], {out}, name + "[" + std::to_string(at + 1) + "]");
}

void check_state(const Tensor& state, const RolloutSizes& sizes, int64_t hidden, const std::string& name) {
  check_dtype(state, ScalarType::Float, name);
  check_shape(state, {sizes.components, sizes.layers, sizes.states, hidden}, name);
}

}  // namespace

void fail(const std::string& message) { throw std::runtime_error(message); }

void check_gumbel_topk(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows, int64_t step) {
  if (logits.dim() != 2) reject("logits", "have 2 dimensions [R, C]", shape(logits));
  const ScalarType type = logits.scalar_type();
  if (type != ScalarType::Float && type != ScalarType::Double)
    reject("logits", "have dtype float32 or float64", dtype_name(type));
  const int64_t items = logits.size(1);
  if (items > kMaxItems) reject("logits", "have at most 2^30 items per row", std::to_string(items));
  check_draws(k, items, "k");
  check_noise(seed, rows, logits.size(0), step);
}

void check_linear_gumbel_topk(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t k,
                              const Tensor& seed, const Tensor& rows, int64_t step,
                              const std::optional<Tensor>& exclude, const std::optional<Tensor>& mask,
                              bool /*log_prob*/) {
  check_layer(hidden, weight, bias, 0);
  const int64_t items = weight.size(0);
  check_draws(k, items, "k");
  check_noise(seed, rows, hidden.size(0), step);
  check_exclude(exclude, hidden.size(0), items);
  if (mask) {
    check_dtype(*mask, ScalarType::Bool, "mask");
    if (mask->dim() == 1) {
      check_shape(*mask, {items}, "mask");
    } else {
      check_shape(*mask, {hidden.size(0), items}, "mask");
    }
  }
}

void check_catalogue_sample(const Tensor& hidden, const std::vector<Tensor>& catalogue, int64_t k, const Tensor& seed,
                            const Tensor& rows, int64_t step, const std::optional<Tensor>& exclude,
                            bool /*logsumexp*/) {
  check_dtype(hidden, ScalarType::Float, "hidden");
  if (hidden.dim() != 2) reject("hidden", "have 2 dimensions [R, H]", shape(hidden));
  const size_t tensors = catalogue.size();
  if (tensors != 9 && tensors != 11) reject("catalogue", "hold 9 or 11 tensors", std::to_string(tensors));
  const auto name = [](size_t i) { return indexed("catalogue", static_cast<int64_t>(i)); };
  if (catalogue[0].dim() != 3) reject(name(0), "have 3 dimensions [B, H, 64]", shape(catalogue[0]));
  if (catalogue[3].dim() != 1) reject(name(3), "have 1 dimension [C]", shape(catalogue[3]));
  const int64_t blocks = catalogue[0].size(0), width = hidden.size(1), centroids = block_count(blocks);
  if (!within(blocks, 1, kMaxItems / kBlock)) reject(name(0), "have 1..2^24 blocks", std::to_string(blocks));
  check_shape(catalogue[0], {blocks, width, kBlock}, name(0));
  check_shape(catalogue[1], {blocks, kBlock}, name(1));
  check_shape(catalogue[2], {blocks, kBlock}, name(2));
  check_shape(catalogue[4], {centroids, width, kBlock}, name(4));
  check_shape(catalogue[5], {centroids, kBlock}, name(5));
  check_shape(catalogue[6], {blocks}, name(6));
  check_shape(catalogue[7], {blocks}, name(7));
  check_shape(catalogue[8], {2}, name(8));
  if (tensors == 11) {
    check_shape(catalogue[9], {width}, name(9));
    check_shape(catalogue[10], {width, width}, name(10));
  }
  for (size_t i = 0; i < tensors; ++i) {
    const ScalarType type = i == 2 || i == 3 ? ScalarType::Long : i == 10 ? ScalarType::Double : ScalarType::Float;
    check_dtype(catalogue[i], type, name(i));
    if (!catalogue[i].is_contiguous()) reject(name(i), "be contiguous", "strides");
  }
  check_draws(k, catalogue[3].size(0), "k");
  check_noise(seed, rows, hidden.size(0), step);
  check_exclude(exclude, hidden.size(0), catalogue[3].size(0));
}

void check_linear_log_prob(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Tensor& targets) {
  check_layer(hidden, weight, bias, 1);
  const int64_t items = weight.size(0);
  check_dtype(targets, ScalarType::Long, "targets");
  check_shape(targets, {hidden.size(0)}, "targets");
  check_values(targets, cpu::kPad, items - 1, "targets", [&] { return named("0..C - 1", "C", items) + " or PAD"; });
}

void check_linear_log_prob_rows(const Tensor& hidden, const Tensor& grad, const Tensor& log_sum_exp) {
  check_dtype(grad, ScalarType::Float, "grad");
  check_shape(grad, {hidden.size(0)}, "grad");
  check_dtype(log_sum_exp, ScalarType::Double, "log_sum_exp");
  check_shape(log_sum_exp, {hidden.size(0)}, "log_sum_exp");
}

RolloutSizes check_rollout(const std::vector<Tensor>& user, const std::vector<Tensor>& agent,
                           const std::vector<Tensor>& discriminator, const Tensor& user_state,
                           const Tensor& agent_state, const Tensor& discriminator_state, const Tensor& state_index,
                           const Tensor& symbols, const Tensor& steps, const Tensor& rows, const Tensor& score_sums,
                           const Tensor& seed, const std::string& cell, const std::string& reward, int64_t slate_size,
                           int64_t completions, int64_t max_steps) {
  if (cell != "gru" && cell != "lstm") reject("cell", "be 'gru' or 'lstm'", "'" + cell + "'");
  if (reward != "survival" && reward != "binary") reject("reward", "be 'survival' or 'binary'", "'" + reward + "'");
  if (user_state.dim() != 4) reject("user_state", "have 4 dimensions [Z, L, S, H]", shape(user_state));
  if (agent.empty() || agent[0].dim() != 2)
    reject("agent[0]", "be an embedding [C + 2, E]", agent.empty() ? "nothing" : shape(agent[0]));
  RolloutSizes sizes{agent[0].size(0) - 2, user_state.size(1), user_state.size(2), state_index.numel(),
                     cell == "gru" ? 1 : 2};
  if (sizes.layers < 1) reject("user_state", "have at least one layer [Z, L, S, H]", shape(user_state));

  const size_t reward_head = reward == "binary" ? 2 : 0;
  const EncoderSizes u = check_encoder(user, "user", sizes, 2 + reward_head);
  const auto heads = static_cast<size_t>(1 + 4 * sizes.layers);
  check_linear(user, heads, u.embedding, u.hidden, "user");
  if (reward_head != 0) check_linear(user, heads + 2, u.embedding, u.hidden, "user");
  check_state(user_state, sizes, u.hidden, "user_state");

  const EncoderSizes a = check_encoder(agent, "agent", sizes, 2);
  check_linear(agent, heads, sizes.items, a.hidden, "agent");
  check_state(agent_state, sizes, a.hidden, "agent_state");

  if (!discriminator.empty()) {
    const EncoderSizes d = check_encoder(discriminator, "discriminator", sizes, 2 + reward_head);
    check_linear(discriminator, heads, d.embedding, d.hidden, "discriminator");
    if (reward_head != 0) check_linear(discriminator, heads + 2, 1, 1, "discriminator");
    check_state(discriminator_state, sizes, d.hidden, "discriminator_state");
  }

  for (const auto& [tensor, name] :
       {std::pair{&state_index, "state_index"}, {&symbols, "symbols"}, {&steps, "steps"}, {&rows, "rows"}}) {
    check_dtype(*tensor, ScalarType::Long, name);
    check_shape(*tensor, {sizes.rows}, name);
  }
  check_dtype(score_sums, ScalarType::Float, "score_sums");
  check_shape(score_sums, {sizes.rows}, "score_sums");
  check_seed(seed);
  check_draws(slate_size, sizes.items, "slate_size");
  check_range(completions, 0, kMaxStep - 1, "completions", "0..65535");
  check_range(max_steps, 1, kMaxStep - 1, "max_steps", "1..65535");
  if (completions != 0 && discriminator.empty())
    reject("completions", "be 0 without a discriminator", std::to_string(completions));
  check_values(state_index, 0, sizes.states - 1, "state_index", [&] { return named("0..S - 1", "S", sizes.states); });
  check_row_ids(rows);
  check_values(steps, 0, max_steps - 1, "steps", [&] { return named("0..max_steps - 1", "max_steps", max_steps); });
  if (symbols.is_cpu()) {
    const Tensor values = dense(symbols);
    const int64_t* data = values.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < sizes.rows; ++i) {
      if (data[i] == cpu::kBos || within(data[i], 0, sizes.items - 1)) continue;
      reject(indexed("symbols", i), "be in " + named("0..C - 1", "C", sizes.items) + " or BOS",
             std::to_string(data[i]));
    }
  }
  return sizes;
}

}  // namespace irecgan
