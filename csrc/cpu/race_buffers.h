// Memory of one thread's races. Not for the files that are compiled per instruction set.
#pragma once

#include <atomic>
#include <vector>

#include "../math/race.h"
#include "kernels.h"

namespace irecgan::cpu {

class RaceBuffers {
 public:
  RaceBuffers(int64_t items, int64_t k)
      : bounds_(static_cast<size_t>(block_count(items))),
        uniforms_(bounds_.size()),
        candidates_(bounds_.size()),
        arrivals_(static_cast<size_t>(k)) {}

  RaceScratch scratch() { return {bounds_.data(), uniforms_.data(), candidates_.data(), arrivals_.data()}; }

 private:
  std::vector<float> bounds_, uniforms_;
  std::vector<int64_t> candidates_;
  std::vector<Arrival> arrivals_;
};

// The first row found whose race could not be run, from any thread.
class RowFault {
 public:
  // drawn: what a race of k draws returned.
  void note(int64_t row, int64_t drawn) {
    int64_t none = -1;
    if (row_.compare_exchange_strong(none, row)) drawn_ = drawn;
  }
  int64_t row() const { return row_.load(); }  // -1: none
  int64_t drawn() const { return drawn_; }     // finite logits of the row, or kNotANumber

 private:
  std::atomic<int64_t> row_{-1};
  int64_t drawn_ = 0;
};

}  // namespace irecgan::cpu
