// The race among blocks that were looked into (catalogue_sample.h), for one instruction set.
#pragma once

#include "block_bounds.h"

namespace irecgan::cpu {
namespace {

inline void hide_excluded(const CatalogueRow& row, int64_t block, float* logits) {
  int64_t low = 0, high = row.excluded_count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (row.excluded[middle] < block * kBlock)
      low = middle + 1;
    else
      high = middle;
  }
  for (; low < row.excluded_count && row.excluded[low] < (block + 1) * kBlock; ++low) {
    logits[row.excluded[low] - block * kBlock] = -kInfinity;
  }
}

// First arrival of a block of exact weight W, whose candidates come at the rate of a bound B >= W: the first candidate
// is an arrival with probability W / B. If it is not, the next arrival is Exp(1) / W later, for the arrivals among a
// Poisson process' points, each kept with probability W / B, are a Poisson process of rate W, which has no memory. So
// the law is that of Exp(1) / W whatever B is, and after it the block races on with what is left of W.
inline double first_arrival(const Stream& stream, int64_t block, const Pick& thinning, double log_bound,
                            double log_weight) {
  const double candidate = log_fast(exponential_fast(first_uniform(stream, block))) - log_bound;
  if (thinning.item < exp_fast(log_weight - log_bound)) return candidate;
  return log_add_exp(candidate, log_fast(exponential_fast(thinning.gap)) - log_weight);
}

// Looks into one block for the rows rows[which[0..count - 1]]: the shifts and sums of opened [count].
inline void open_catalogue_block(const Catalogue& c, const CatalogueRow* rows, const int64_t* which, int64_t count,
                                 int64_t block, OpenedBlock* opened) {
  float logits[kTileRows * kBlock];
  for (int64_t first = 0; first < count; first += kTileRows) {
    const int64_t n = count - first < kTileRows ? count - first : kTileRows;
    const float* hidden[kTileRows];
    for (int64_t r = 0; r < n; ++r) hidden[r] = rows[which[first + r]].hidden;
    multiply_panel(n, hidden, c.width, c.panels + block * kBlock * c.width, c.bias + block * kBlock, logits);
    for (int64_t r = 0; r < n; ++r) {
      float* mine = logits + r * kBlock;
      hide_excluded(rows[which[first + r]], block, mine);
      opened[first + r].shift = shift_of(max_of(mine, kBlock));
      opened[first + r].sum = block_sum(mine, opened[first + r].shift);
    }
  }
}

// A row of the catalogue as the source of its blocks.
struct CatalogueSource {
  const Catalogue& catalogue;
  const CatalogueRow& row;

  void read(int64_t index, float* left) const {
    float logits[kTileRows * kBlock];
    const float* hidden[kTileRows] = {row.hidden};
    multiply_panel(1, hidden, catalogue.width, catalogue.panels + index * kBlock * catalogue.width,
                   catalogue.bias + index * kBlock, logits);
    hide_excluded(row, index, logits);
    std::memcpy(left, logits, kBlock * sizeof(float));
  }
};

// Largest shift of opened blocks with items, to compare their weights in float32; NaN if one is not finite.
inline float reference_shift(const OpenedBlock* opened, int64_t count) {
  float largest = -kInfinity;
  for (int64_t o = 0; o < count; ++o) {
    if (!(opened[o].sum < kInfinity)) return __builtin_nanf("");
    if (opened[o].sum > 0 && opened[o].shift > largest) largest = opened[o].shift;
  }
  return largest;
}

// The earliest first arrivals of opened blocks, at most k, sorted. Returns how many there are, or kNotANumber.
inline int64_t opened_arrivals(const Stream& stream, const OpenedBlock* opened, int64_t count, double row_shift,
                               int64_t k, Arrival* arrivals) {
  constexpr float kAbove = 1.0f + 1e-4f;
  const float reference = reference_shift(opened, count);
  if (reference != reference) return kNotANumber;
  const double apart = row_shift - static_cast<double>(reference);
  const auto bound_scale = static_cast<float>(exp_fast(apart < 88.0 ? apart : 88.0));  // at most, as float32 allows
  int64_t waiting = 0;
  float limit = kInfinity, weight_limit = kInfinity;  // the k-th arrival, relative to bounds and to weights
  for (int64_t o = 0; o < count; ++o) {
    const OpenedBlock& block = opened[o];
    if (!(block.sum > 0) || block.earliest > limit) continue;
    const Pick thinning = arrival_pick(stream, block.block, kBlock);  // the number kBlock belongs to none of its draws
    // A candidate that is certainly thinned out, and a wait, at least gap / weight, that is certainly too long.
    const float weight = block.sum * exp_weight(block.shift - reference);
    if (static_cast<float>(thinning.item) * block.rate * bound_scale > weight * kAbove &&
        static_cast<float>(thinning.gap) > weight_limit * weight * kAbove)
      continue;
    const double log_bound = log_fast(static_cast<double>(block.rate)) + row_shift;
    const double log_weight = log_fast(static_cast<double>(block.sum)) + static_cast<double>(block.shift);
    const double log_time = first_arrival(stream, block.block, thinning, log_bound, log_weight);
    if (waiting == k && log_time >= arrivals[k - 1].log_time) continue;
    waiting += waiting < k;
    arrivals[waiting - 1] = Arrival{log_time, block.block, 0};
    insert_last(arrivals, waiting);
    if (waiting < k) continue;
    limit = relative_limit(arrivals[k - 1].log_time, row_shift);
    weight_limit = relative_limit(arrivals[k - 1].log_time, static_cast<double>(reference));
    // Weights that exp flushes to 0 may still arrive at 2^-65 exp(87) / 64 > 1e16.
    if (!(weight_limit < 1e16f)) weight_limit = kInfinity;
  }
  return waiting;
}

// k draws from the opened blocks of a row, of which there are `count`. Returns k, or fewer if they have fewer items, or
// kNotANumber. log_times [k] ascending, indices [k]. arrivals [k] scratch.
inline int64_t thinned_race(const Catalogue& c, const CatalogueRow& row, const OpenedBlock* opened, int64_t count,
                            double row_shift, int64_t k, Arrival* arrivals, double* log_times, int64_t* indices) {
  int64_t waiting = opened_arrivals(row.stream, opened, count, row_shift, k, arrivals);
  if (waiting == kNotANumber) return kNotANumber;
  const CatalogueSource source{c, row};
  Block<float> block;
  for (int64_t drawn = 0; drawn < k; ++drawn) {
    if (waiting == 0) return drawn;
    Arrival arrival = arrivals[0];
    const Pick pick = arrival_pick(row.stream, arrival.block, __builtin_popcountll(arrival.taken));
    if (block.index != arrival.block) open_block(source, arrival.block, arrival.taken, block);
    const int64_t item = pick_item(block.weights, pick.item);
    log_times[drawn] = arrival.log_time;
    indices[drawn] = c.items[arrival.block * kBlock + item];
    arrival.taken |= uint64_t{1} << item;
    take_item(source, item, arrival.taken, block);
    // The block waits for its next arrival, or leaves the race with its last item.
    arrival.log_time =
        block.sum > 0
            ? log_add_exp(arrival.log_time, log_fast(exponential_fast(pick.gap) / static_cast<double>(block.sum)) -
                                                static_cast<double>(block.shift))
            : static_cast<double>(kInfinity);
    int64_t at = 0;
    for (; at + 1 < waiting && arrivals[at + 1].log_time <= arrival.log_time; ++at) arrivals[at] = arrivals[at + 1];
    arrivals[at] = arrival;
    while (waiting > 0 && !(arrivals[waiting - 1].log_time < static_cast<double>(kInfinity))) --waiting;
  }
  return k;
}

}  // namespace
}  // namespace irecgan::cpu
