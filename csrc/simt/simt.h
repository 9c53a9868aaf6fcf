// Runs CUDA C++ kernels on the host: every thread of a block is a fiber, and warp operations and barriers are matched
// across them. For tests; see README.md here. Header-only, C++20, no dependency.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned long long volume() const { return 1ull * x * y * z; }
};

// What CUDA leaves undefined and the executor refuses. The text names the source line and the thread.
struct Misuse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// In which order the threads of a block run between two points where they meet: warp after warp, each as far as it gets
// without the others. A kernel that lacks a barrier usually gives different results in the two, or wrong ones.
enum class Order { kForward, kReversed };

inline thread_local Order order = Order::kForward;

constexpr unsigned kWarpSize = 32;
constexpr size_t kStackBytes = 256 * 1024;

enum class Operation : uint8_t { kBarrier, kSyncWarp, kShuffle, kBallot, kCollective };

inline const char* name(Operation operation) {
  switch (operation) {
    case Operation::kBarrier:
      return "__syncthreads";
    case Operation::kSyncWarp:
      return "__syncwarp";
    case Operation::kShuffle:
      return "__shfl_*_sync";
    case Operation::kCollective:
      return "an instruction of the whole warp";
    default:
      return "__ballot_sync, __any_sync or __all_sync";
  }
}

// What a thread waits for and what it brings.
struct Request {
  Operation operation;
  unsigned mask = 0;         // lanes named by a warp operation
  uint64_t payload = 0;      // shuffle: the value's bytes; ballot: the predicate
  unsigned source_lane = 0;  // shuffle: lane within the warp
  std::source_location where;
  void (*collective)(void* const* parts) = nullptr;  // does a whole warp's work, given the 32 lanes' payloads
};

// A copy that has been asked for and not waited for.
struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes;
  size_t filled;  // bytes read; the rest become zero
};

namespace detail {

// swapcontext saves the signal mask with a system call each way, and a kernel switches at every warp operation. Where
// the registers to be kept are known, only those are: what a function must preserve, and the stack pointer.
#if defined(__x86_64__)
extern "C" void simt_switch(void** from, void* to);
asm(R"(
  .pushsection .text
  .weak simt_switch
  .hidden simt_switch
  .type simt_switch, @function
simt_switch:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch, .-simt_switch
  .popsection
)");

struct Context {
  void* stack_pointer = nullptr;

  // Stack as simt_switch leaves it: six registers, the address to return to, and none for `start` to return to.
  void begin(char* stack, size_t bytes, void (*start)()) {
    auto* top = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
    *--top = 0;
    *--top = reinterpret_cast<uint64_t>(start);
    for (int i = 0; i < 6; ++i) *--top = 0;
    stack_pointer = top;
  }
  void switch_to(const Context& other) { simt_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
  ucontext_t context;

  void begin(char* stack, size_t bytes, void (*start)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
  }
  void switch_to(const Context& other) { swapcontext(&context, &other.context); }
};
#endif

enum class State : uint8_t { kReady, kWaiting, kExited };

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  State state = State::kReady;
  Request request;
  uint64_t reply = 0;
  Dim3 index;
  std::vector<std::vector<PendingCopy>> copies;  // groups in the order of their commits; the last is still open
  void* fake_stack = nullptr;
};

class Executor {
 public:
  Executor(Dim3 grid, Dim3 block, size_t shared_bytes, std::function<void()> body)
      : grid_(grid), block_(block), shared_bytes_(shared_bytes), body_(std::move(body)) {}

  void run();
  uint64_t wait(const Request& request);
  void* shared() { return shared_.get(); }
  Fiber& fiber() { return *current_; }
  Dim3 block_index() const { return block_index_; }
  Dim3 block_size() const { return block_; }
  Dim3 grid_size() const { return grid_; }
  unsigned lane() const { return static_cast<unsigned>(current_ - fibers_.data()) % kWarpSize; }

 private:
  static void enter();
  void prepare(Fiber& fiber);
  void run_block(Dim3 index);
  void run_warp(size_t warp);
  void resume(Fiber& fiber);
  void leave(Fiber& fiber, bool for_good);
  bool complete_barrier();
  bool complete_warp(size_t first, size_t lanes);
  std::string describe(const Fiber& fiber) const;
  [[noreturn]] void refuse_standstill() const;

  Dim3 grid_, block_;
  size_t shared_bytes_;
  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  std::unique_ptr<char[]> shared_;
  Fiber* current_ = nullptr;
  Context scheduler_;
  Dim3 block_index_;
  std::exception_ptr thrown_;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
};

inline thread_local Executor* executor = nullptr;

inline std::string text(Dim3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

inline std::string text(const std::source_location& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

inline std::string Executor::describe(const Fiber& fiber) const {
  const std::string thread = "thread " + text(fiber.index) + " of block " + text(block_index_);
  if (fiber.state == State::kExited) return thread + " has exited";
  return thread + " waits in " + name(fiber.request.operation) + " at " + text(fiber.request.where);
}

// AddressSanitizer has to be told which stack is in use.
inline void Executor::resume(Fiber& fiber) {
  current_ = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack_, fiber.stack.get(), kStackBytes);
#endif
  scheduler_.switch_to(fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
}

inline void Executor::leave(Fiber& fiber, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
  fiber.context.switch_to(scheduler_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

inline void Executor::enter() {
  Executor& self = *executor;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self.scheduler_stack_, &self.scheduler_stack_bytes_);
#endif
  Fiber& fiber = *self.current_;
  try {
    self.body_();
  } catch (...) {
    self.thrown_ = std::current_exception();
  }
  fiber.state = State::kExited;
  self.leave(fiber, true);
}

// Called on a fiber: hand over to the scheduler until the request is met.
inline uint64_t Executor::wait(const Request& request) {
  Fiber& self = *current_;
  self.request = request;
  if (request.operation != Operation::kBarrier && !(request.mask >> lane() & 1))
    throw Misuse(std::string(name(request.operation)) + " at " + text(request.where) +
                 ": the mask does not name lane " + std::to_string(lane()) + ", which calls it");
  self.state = State::kWaiting;
  leave(self, false);
  return self.reply;
}

// The barrier is for every thread of the block; one that has exited can never reach it.
inline bool Executor::complete_barrier() {
  const Fiber* exited = nullptr;
  const Fiber* waiting = nullptr;
  for (const Fiber& fiber : fibers_) {
    if (fiber.state == State::kExited) {
      exited = &fiber;
    } else if (fiber.request.operation != Operation::kBarrier) {
      return false;
    } else if (waiting != nullptr &&
               (fiber.request.where.line() != waiting->request.where.line() ||
                std::strcmp(fiber.request.where.file_name(), waiting->request.where.file_name()) != 0)) {
      throw Misuse("__syncthreads not reached by all: " + describe(fiber) + "; " + describe(*waiting));
    } else {
      waiting = &fiber;
    }
  }
  if (waiting == nullptr) return false;
  if (exited != nullptr)
    throw Misuse("__syncthreads not reached by all: " + describe(*waiting) + "; " + describe(*exited));
  for (Fiber& fiber : fibers_) fiber.state = State::kReady;
  return true;
}

// Completes each set of lanes that all wait in the same operation with the same mask.
inline bool Executor::complete_warp(size_t first, size_t lanes) {
  bool progress = false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Fiber& leader = fibers_[first + lane];
    if (leader.state != State::kWaiting || leader.request.operation == Operation::kBarrier) continue;
    const Request request = leader.request;
    const auto call = [&] { return std::string(name(request.operation)) + " at " + text(request.where); };
    bool complete = true;
    for (unsigned other = 0; other < kWarpSize; ++other) {
      if (!(request.mask >> other & 1)) continue;
      if (other >= lanes)
        throw Misuse(call() + ": the mask names lane " + std::to_string(other) + " of a warp of " +
                     std::to_string(lanes));
      const Fiber& fiber = fibers_[first + other];
      if (fiber.state == State::kExited) throw Misuse(call() + " names an exited lane: " + describe(fiber));
      complete = complete && fiber.state == State::kWaiting && fiber.request.operation == request.operation &&
                 fiber.request.mask == request.mask && fiber.request.collective == request.collective;
    }
    if (!complete) continue;
    if (request.operation == Operation::kCollective) {
      void* parts[kWarpSize];
      for (unsigned l = 0; l < kWarpSize; ++l)
        parts[l] = reinterpret_cast<void*>(static_cast<uintptr_t>(fibers_[first + l].request.payload));
      request.collective(parts);
    }
    uint64_t ballot = 0;
    for (unsigned l = 0; l < lanes; ++l)
      if (request.mask >> l & 1) ballot |= fibers_[first + l].request.payload << l;
    for (unsigned l = 0; l < lanes; ++l) {
      if (!(request.mask >> l & 1)) continue;
      Fiber& fiber = fibers_[first + l];
      if (request.operation == Operation::kBallot) fiber.reply = ballot;
      if (request.operation == Operation::kShuffle) {
        const unsigned source = fiber.request.source_lane;
        if (source >= lanes || !(request.mask >> source & 1))
          throw Misuse("__shfl_*_sync at " + text(fiber.request.where) + " reads lane " + std::to_string(source) +
                       ", which the mask does not name: " + describe(fiber));
        fiber.reply = fibers_[first + source].request.payload;
      }
    }
    for (unsigned l = 0; l < lanes; ++l)
      if (request.mask >> l & 1) fibers_[first + l].state = State::kReady;
    progress = true;
  }
  return progress;
}

inline void Executor::refuse_standstill() const {
  const Fiber* barrier = nullptr;
  const Fiber* other = nullptr;
  for (const Fiber& fiber : fibers_) {
    if (fiber.state != State::kWaiting) continue;
    (fiber.request.operation == Operation::kBarrier ? barrier : other) = &fiber;
  }
  if (barrier != nullptr && other != nullptr)
    throw Misuse("__syncthreads not reached by all: " + describe(*barrier) + "; " + describe(*other));
  throw Misuse("lanes wait for each other in different warp operations: " + describe(*other));
}

inline void Executor::prepare(Fiber& fiber) {
  fiber.state = State::kReady;
  fiber.copies.assign(1, {});
  fiber.fake_stack = nullptr;
  fiber.context.begin(fiber.stack.get(), kStackBytes, &Executor::enter);
}

inline void Executor::run_block(Dim3 index) {
  block_index_ = index;
  // Shared memory begins undefined; the exact size lets AddressSanitizer see what lies outside it.
  shared_.reset(new char[shared_bytes_]);
  std::memset(shared_.get(), 0xA5, shared_bytes_);
  size_t i = 0;
  for (unsigned z = 0; z < block_.z; ++z)
    for (unsigned y = 0; y < block_.y; ++y)
      for (unsigned x = 0; x < block_.x; ++x, ++i) {
        fibers_[i].index = Dim3(x, y, z);
        prepare(fibers_[i]);
      }
  const size_t warps = (fibers_.size() + kWarpSize - 1) / kWarpSize;
  for (;;) {
    for (size_t turn = 0; turn < warps; ++turn) run_warp(order == Order::kForward ? turn : warps - 1 - turn);
    if (std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.state == State::kExited; })) return;
    if (!complete_barrier()) refuse_standstill();
  }
}

// As far as the warp gets without the others: one that runs ahead shows where a barrier is missing.
inline void Executor::run_warp(size_t warp) {
  const size_t first = warp * kWarpSize;
  const size_t lanes = std::min<size_t>(fibers_.size() - first, kWarpSize);
  do {
    for (size_t turn = 0; turn < lanes; ++turn) {
      Fiber& fiber = fibers_[first + (order == Order::kForward ? turn : lanes - 1 - turn)];
      if (fiber.state == State::kReady) resume(fiber);
      if (thrown_) std::rethrow_exception(thrown_);
    }
  } while (complete_warp(first, lanes));
}

inline void Executor::run() {
  if (block_.volume() == 0 || block_.volume() > 1024)
    throw Misuse("launch: a block must have 1..1024 threads, got " + std::to_string(block_.volume()));
  if (grid_.volume() == 0 || grid_.x > 0x7FFFFFFFu || grid_.y > 0xFFFFu || grid_.z > 0xFFFFu)
    throw Misuse("launch: the grid must have 1..2^31 - 1 x 65535 x 65535 blocks, got " + text(grid_));
  fibers_ = std::vector<Fiber>(block_.volume());
  for (Fiber& fiber : fibers_) fiber.stack.reset(new char[kStackBytes]);
  for (unsigned z = 0; z < grid_.z; ++z)
    for (unsigned y = 0; y < grid_.y; ++y)
      for (unsigned x = 0; x < grid_.x; ++x) run_block(Dim3(x, y, z));
}

}  // namespace detail

// Runs body once per thread of the grid, blocks one after another. Throws Misuse, or what a thread threw.
inline void launch(Dim3 grid, Dim3 block, size_t shared_bytes, std::function<void()> body) {
  if (detail::executor != nullptr) throw Misuse("launch: a kernel cannot launch a kernel");
  detail::Executor executor(grid, block, shared_bytes, std::move(body));
  struct Scope {
    explicit Scope(detail::Executor* e) { detail::executor = e; }
    ~Scope() { detail::executor = nullptr; }
  } scope(&executor);
  executor.run();
}

inline void* dynamic_shared() { return detail::executor->shared(); }

// Shuffle of a value of up to 8 bytes from `source`, a lane of the warp.
template <typename T>
T shuffle(unsigned mask, T value, unsigned source, std::source_location where) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  Request request{Operation::kShuffle, mask, 0, source, where};
  std::memcpy(&request.payload, &value, sizeof value);
  const uint64_t reply = detail::executor->wait(request);
  std::memcpy(&value, &reply, sizeof value);
  return value;
}

inline unsigned ballot(unsigned mask, bool predicate, std::source_location where) {
  return static_cast<unsigned>(
      detail::executor->wait(Request{Operation::kBallot, mask, predicate ? uint64_t{1} : 0, 0, where}));
}

// An instruction that all 32 lanes execute together: `f` runs once, when every lane has brought its part.
inline void collective(void (*f)(void* const* parts), void* part, std::source_location where) {
  detail::executor->wait(Request{Operation::kCollective, 0xFFFFFFFFu, reinterpret_cast<uintptr_t>(part), 0, where, f});
}

}  // namespace simt
