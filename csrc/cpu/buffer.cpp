#include "buffer.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace irecgan::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr std::align_val_t kLargePage{2 << 20};
constexpr size_t kLargeBytes = 2 * static_cast<size_t>(kLargePage);
constexpr size_t kKeptBytes = size_t{512} << 20;
constexpr size_t kLeastBytes = 4096;
constexpr size_t kLoosest = 8;  // times what was asked for: larger memory is left to those who need it

struct Kept {
  std::mutex mutex;
  std::vector<Memory> free;  // as they were given back
  size_t bytes = 0;

  Memory remove(std::vector<Memory>::iterator at) {
    const Memory memory = *at;
    free.erase(at);
    bytes -= memory.bytes;
    return memory;
  }
};

std::align_val_t alignment(size_t bytes) { return bytes < kLargeBytes ? kAlignment : kLargePage; }

std::byte* new_memory(size_t bytes) {
  auto* const data = static_cast<std::byte*>(::operator new(bytes, alignment(bytes)));
#if defined(__linux__)
  // A hint: pages of 4 KB cost a fault each, which shows where a call's memory is too large to be kept.
  if (bytes >= kLargeBytes) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

// Never destroyed: threads may still give memory back while the process ends.
Kept& kept() {
  static auto* const instance = new Kept;
  return *instance;
}

}  // namespace

Memory take_memory(size_t bytes) {
  const size_t size = std::max(bytes, kLeastBytes);
  {
    Kept& pool = kept();
    const std::lock_guard lock(pool.mutex);
    auto best = pool.free.end();
    for (auto at = pool.free.begin(); at != pool.free.end(); ++at) {
      if (at->bytes >= bytes && at->bytes <= kLoosest * size && (best == pool.free.end() || at->bytes < best->bytes))
        best = at;
    }
    if (best != pool.free.end()) return pool.remove(best);
  }
  return {new_memory(size), size};
}

void give_memory(Memory memory) {
  std::vector<Memory> dropped;
  {
    Kept& pool = kept();
    const std::lock_guard lock(pool.mutex);
    pool.free.push_back(memory);
    pool.bytes += memory.bytes;
    while (pool.bytes > kKeptBytes) dropped.push_back(pool.remove(pool.free.begin()));
  }
  for (const Memory& old : dropped) ::operator delete(old.data, alignment(old.bytes));
}

}  // namespace irecgan::cpu
