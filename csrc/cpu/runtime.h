// What the CPU ops need from their host framework: threads.
#pragma once

#include <cstdint>
#include <functional>

namespace irecgan::cpu {

using RangeFunction = std::function<void(int64_t begin, int64_t end)>;

struct Runtime {
  // Calls f on disjoint ranges that cover 0..n-1, at least `grain` indices each, possibly at the same time.
  void (*parallel_for)(int64_t n, int64_t grain, const RangeFunction& f);
};

}  // namespace irecgan::cpu
