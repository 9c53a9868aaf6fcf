#include "projected_races.h"

#include <algorithm>

#include "race_buffers.h"

namespace irecgan::cpu {
namespace {

constexpr int64_t kOpenedFloats = 1 << 18;  // logits of opened blocks held at a time, where there are several draws

}  // namespace

BlockStats<float> ProjectedRaces::stats_of(int64_t draw) const {
  const int64_t at = draws_[draw].state * blocks_;
  return {stats_.shift + at, stats_.sum + at};
}

void ProjectedRaces::find_arrivals(const float* hidden, BlockStats<float> stats, const ProjectedDraw* draws,
                                   int64_t count) {
  hidden_ = hidden;
  stats_ = stats;
  draws_ = draws;
  count_ = count;
  arrivals_.reserve(count * most_);
  opened_.reserve(count * most_);
  waiting_.resize(static_cast<size_t>(count));
  runtime_.parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    RaceBuffers buffers(projection_.items, k_);
    for (int64_t i = begin; i < end; ++i) {
      RaceScratch scratch = buffers.scratch();
      scratch.arrivals = arrivals_.data() + i * most_;
      const int64_t waiting = kernel_.projected_arrivals(projection_.items, k_, stats_of(i), draws_[i].stream, scratch);
      waiting_[static_cast<size_t>(i)] = waiting;
      int64_t* opened = opened_.data() + i * most_;
      for (int64_t a = 0; a < waiting; ++a) opened[a] = scratch.arrivals[a].block;
      std::sort(opened, opened + std::max<int64_t>(waiting, 0));
    }
  });
}

void ProjectedRaces::draw(int64_t* drawn, float* log_prob) {
  const int64_t at_a_time = std::min(count_, std::max<int64_t>(1, kOpenedFloats / (most_ * kBlock)));
  logits_.reserve(at_a_time * most_ * kBlock);
  for (first_ = 0; first_ < count_; first_ = last_) {
    last_ = std::min(count_, first_ + at_a_time);
    open_blocks();
    run_races(drawn, log_prob);
  }
}

template <typename F>
void ProjectedRaces::for_each_visit(const F& f) {
  for (int64_t i = first_; i < last_; ++i) {
    for (int64_t a = 0; a < waiting_[static_cast<size_t>(i)]; ++a)
      f(static_cast<size_t>(opened_.data()[i * most_ + a]), Visit{draws_[i].state, logits_of(i) + a * kBlock});
  }
}

void ProjectedRaces::open_blocks() {
  // Visits sorted by block, by counting.
  ends_.assign(static_cast<size_t>(blocks_) + 1, 0);
  for_each_visit([&](size_t block, Visit) { ++ends_[block + 1]; });
  for (size_t b = 1; b < ends_.size(); ++b) ends_[b] += ends_[b - 1];
  visits_.resize(static_cast<size_t>(ends_.back()));
  for_each_visit([&](size_t block, Visit visit) { visits_[static_cast<size_t>(ends_[block]++)] = visit; });
  runtime_.parallel_for(blocks_, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> states;
    std::vector<float*> logits;
    for (int64_t b = begin; b < end; ++b) {
      states.clear();
      logits.clear();
      for (int64_t v = b == 0 ? 0 : ends_[static_cast<size_t>(b) - 1]; v < ends_[static_cast<size_t>(b)]; ++v) {
        states.push_back(visits_[static_cast<size_t>(v)].state);
        logits.push_back(visits_[static_cast<size_t>(v)].logits);
      }
      if (states.empty()) continue;
      kernel_.open_projected_block(projection_, hidden_, states.data(), static_cast<int64_t>(states.size()), b,
                                   logits.data());
    }
  });
}

void ProjectedRaces::run_races(int64_t* drawn, float* log_prob) {
  runtime_.parallel_for(last_ - first_, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> taken(log_prob == nullptr ? 0 : static_cast<size_t>(blocks_));
    for (int64_t i = first_ + begin; i < first_ + end; ++i) {
      const ProjectedDraw& draw = draws_[i];
      const OpenedRow opened{opened_.data() + i * most_, waiting_[static_cast<size_t>(i)], logits_of(i)};
      drawn[i] = kNotANumber;
      if (opened.count == kNotANumber) continue;
      drawn[i] = kernel_.opened_race(opened, k_, draw.stream, arrivals_.data() + i * most_, draw.values, draw.indices);
      if (log_prob == nullptr || drawn[i] != k_) continue;
      log_prob[i] = static_cast<float>(
          kernel_.opened_log_prob(opened, projection_.items, k_, stats_of(i), draw.indices, taken.data()));
    }
  });
}

}  // namespace irecgan::cpu
