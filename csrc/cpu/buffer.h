// Working memory of a call, kept for the calls after it: fresh pages cost more than what a small step does in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace irecgan::cpu {

struct Memory {
  std::byte* data;  // 64-byte aligned
  size_t bytes;
};

// At least `bytes` of memory with whatever contents, given back before or new. From any thread.
Memory take_memory(size_t bytes);
// Kept for later, up to 512 MiB in all; what was given back first goes first.
void give_memory(Memory memory);

// Memory for numbers that only grows, to twice what was asked for at least.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : memory_(std::exchange(other.memory_, {})), asked_(std::exchange(other.asked_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(asked_, other.asked_);
    return *this;
  }
  ~Buffer() {
    if (memory_.data != nullptr) give_memory(memory_);
  }

  // Room for `size` numbers, whose values are lost where memory has to grow.
  T* reserve(int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    if (memory_.bytes < bytes || memory_.data == nullptr) {
      const size_t more = 2 * asked_;
      if (memory_.data != nullptr) give_memory(std::exchange(memory_, {}));
      const size_t wanted = bytes > more ? bytes : more;
      memory_ = take_memory(wanted);
      asked_ = wanted;
    }
    return data();
  }
  T* data() { return reinterpret_cast<T*>(memory_.data); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.data); }
  bool empty() const { return memory_.data == nullptr; }

 private:
  Memory memory_{};
  size_t asked_ = 0;  // memory_ may be larger
};

}  // namespace irecgan::cpu
