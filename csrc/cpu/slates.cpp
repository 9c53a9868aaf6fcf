#include "slates.h"

#include <algorithm>

#include "linear_gumbel_topk.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kBudget = 1 << 22;    // floats of logits or of block statistics held at a time
constexpr int64_t kPackedItems = 1024;  // up to so many, logits are made by a packed product

}  // namespace

SlateSampler::SlateSampler(const Runtime& runtime, const LinearWeights& head, int64_t hidden, int64_t items,
                           int64_t slate_size)
    : runtime_(runtime),
      projection_{head.weight, head.bias, items, hidden, nullptr, nullptr},
      items_(items),
      slate_size_(slate_size),
      races_(runtime, projection_, slate_size) {
  if (items <= kPackedItems) {
    packed_ = PackedLinear(runtime, head.weight, head.bias, hidden, items);
    return;
  }
  const int64_t panel = hidden * kBlock;
  float* panels = panels_.reserve(block_count(items) * panel);
  runtime.parallel_for(block_count(items), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) kernel_.pack_block(projection_, b, panels + b * panel);
  });
  projection_.panels = panels;
}

int64_t SlateSampler::states_at_a_time() const {
  return std::max<int64_t>(1, kBudget / (packed_.empty() ? 2 * block_count(items_) : packed_.stride()));
}

void SlateSampler::project(const float* states, int64_t count) {
  states_ = states;
  const int64_t blocks = block_count(items_);
  if (!one_block()) {
    shift_.reserve(count * blocks);
    sum_.reserve(count * blocks);
  }
  if (packed_.empty()) {
    project_stats(runtime_, projection_, states, count, stats_of(0));
    return;
  }
  packed_.apply(runtime_, states, nullptr, count, logits_.reserve(count * packed_.stride()));
  if (one_block()) return;
  runtime_.parallel_for(count, 1 + 4096 / items_, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) kernel_.rough_stats_f32(logits_of(n), items_, stats_of(n));
  });
}

BlockStats<float> SlateSampler::stats_of(int64_t state) const {
  const int64_t at = state * block_count(items_);
  return {const_cast<float*>(shift_.data()) + at, const_cast<float*>(sum_.data()) + at};
}

void SlateSampler::draw_all(const SlateDraw* draws, int64_t count, bool* drawn) {
  float* values = values_.reserve(count * slate_size_);
  std::vector<ProjectedDraw> projected;
  for (int64_t j = 0; j < count; ++j)
    projected.push_back({draws[j].state, draws[j].stream, values + j * slate_size_, draws[j].slate});
  std::vector<int64_t> sizes(static_cast<size_t>(count));
  races_.find_arrivals(states_, stats_of(0), projected.data(), count);
  races_.draw(sizes.data(), nullptr);
  for (int64_t j = 0; j < count; ++j) drawn[j] = sizes[static_cast<size_t>(j)] == slate_size_;
}

void SlateSampler::draw(const SlateDraw* draws, int64_t count, RaceBuffers& buffers, float* values, bool* drawn) const {
  if (one_block()) return draw_together(draws, count, buffers, values, drawn);
  for (int64_t j = 0; j < count; ++j) drawn[j] = draw_alone(draws[j], buffers, values);
}

bool SlateSampler::draw_alone(const SlateDraw& draw, RaceBuffers& buffers, float* values) const {
  const int64_t n = draw.state;
  return kernel_.race_f32(logits_of(n), items_, slate_size_, stats_of(n), draw.stream, buffers.scratch(), values,
                          draw.slate) == slate_size_;
}

void SlateSampler::draw_together(const SlateDraw* draws, int64_t count, RaceBuffers& buffers, float* values,
                                 bool* drawn) const {
  const float* logits[kSmallRows] = {};
  int64_t* to_slates[kSmallRows] = {};
  Stream streams[kSmallRows] = {};
  for (int64_t j = 0; j < count; ++j) {
    logits[j] = logits_of(draws[j].state);
    to_slates[j] = draws[j].slate;
    streams[j] = draws[j].stream;
  }
  kernel_.small_races(logits, count, items_, slate_size_, streams, nullptr, to_slates, drawn);
  for (int64_t j = 0; j < count; ++j) {
    if (drawn[j]) continue;
    float shift, sum;
    kernel_.rough_stats_f32(logits[j], items_, {&shift, &sum});
    drawn[j] = kernel_.race_f32(logits[j], items_, slate_size_, {&shift, &sum}, streams[j], buffers.scratch(), values,
                                to_slates[j]) == slate_size_;
  }
}

}  // namespace irecgan::cpu
