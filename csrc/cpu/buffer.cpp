#include "buffer.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

namespace irecgan::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr size_t kKeptBytes = size_t{64} << 20;
constexpr size_t kLeastBytes = 4096;

struct Kept {
  std::mutex mutex;
  std::vector<Memory> free;
  size_t bytes = 0;
};

// Never destroyed: threads may still give memory back while the process ends.
Kept& kept() {
  static auto* const instance = new Kept;
  return *instance;
}

}  // namespace

Memory take_memory(size_t bytes) {
  {
    Kept& pool = kept();
    const std::lock_guard lock(pool.mutex);
    auto best = pool.free.end();
    for (auto at = pool.free.begin(); at != pool.free.end(); ++at) {
      if (at->bytes >= bytes && (best == pool.free.end() || at->bytes < best->bytes)) best = at;
    }
    if (best != pool.free.end()) {
      const Memory found = *best;
      *best = pool.free.back();
      pool.free.pop_back();
      pool.bytes -= found.bytes;
      return found;
    }
  }
  const size_t size = std::max(bytes, kLeastBytes);
  return {static_cast<std::byte*>(::operator new(size, kAlignment)), size};
}

void give_memory(Memory memory) {
  {
    Kept& pool = kept();
    const std::lock_guard lock(pool.mutex);
    if (pool.bytes + memory.bytes <= kKeptBytes) {
      pool.free.push_back(memory);
      pool.bytes += memory.bytes;
      return;
    }
  }
  ::operator delete(memory.data, kAlignment);
}

}  // namespace irecgan::cpu
