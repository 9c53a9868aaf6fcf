// csrc/cuda/mma.h, executed: what a lane holds of each matrix, products of whole matrices, and misuse.
#include "../cuda/launch.h"
#include "../cuda/mma.h"
#include "entry.h"

namespace {

using namespace irecgan::cuda;

// Fragments go in and out as they are: a [32, 4], b [32, 2], d [32, 4].
template <bool kBf16>
__global__ void fragments(const uint32_t* a, const uint32_t* b, float* d) {
  const unsigned lane = threadIdx.x;
  uint32_t left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) left[i] = a[4 * lane + i];
  for (int i = 0; i < 2; ++i) right[i] = b[2 * lane + i];
  for (int i = 0; i < 4; ++i) sum[i] = d[4 * lane + i];
  if constexpr (kBf16) {
    mma_bf16(sum, left, right);
  } else {
    mma_tf32(sum, left, right);
  }
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = sum[i];
}

// in [32 rows of 4 words]: four matrices of 8 rows; out [32, 4].
__global__ void matrices(const uint32_t* in, uint32_t* out) {
  IRECGAN_DYNAMIC_SHARED(uint32_t, staged);
  const unsigned lane = threadIdx.x;
  for (int i = 0; i < 4; ++i) staged[4 * lane + i] = in[4 * lane + i];
  __syncwarp();
  uint32_t words[4];
  load_matrices(words, reinterpret_cast<const char*>(staged + 4 * lane));
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = words[i];
}

// Three groups of copies; out [5, 4 words]: what is there before and after each wait, and after a copy of nothing.
__global__ void copies(const uint32_t* in, uint32_t* out) {
  IRECGAN_DYNAMIC_SHARED(uint32_t, staged);
  for (int i = 0; i < 8; ++i) staged[i] = 7;
  copy_async(reinterpret_cast<char*>(staged), in, true);
  commit_copies();
  copy_async(reinterpret_cast<char*>(staged + 4), in + 4, true);
  commit_copies();
  for (int i = 0; i < 4; ++i) out[i] = staged[i];
  wait_copies<1>();
  for (int i = 0; i < 4; ++i) out[4 + i] = staged[i];
  for (int i = 0; i < 4; ++i) out[8 + i] = staged[4 + i];
  wait_copies<0>();
  for (int i = 0; i < 4; ++i) out[12 + i] = staged[4 + i];
  copy_async(reinterpret_cast<char*>(staged), in, false);
  commit_copies();
  wait_copies<0>();
  for (int i = 0; i < 4; ++i) out[16 + i] = staged[i];
}

__global__ void round_to_tf32(const uint32_t* in, uint32_t* out) {
  float x;
  std::memcpy(&x, &in[threadIdx.x], sizeof x);
  out[threadIdx.x] = tf32(x);
}

// Half of the warp at another instruction.
__global__ void divided(const uint32_t*, uint32_t* out) {
  const uint32_t a[4] = {}, b[2] = {};
  float d[4] = {};
  if (threadIdx.x < 16) {
    mma_bf16(d, a, b);
  } else {
    mma_tf32(d, a, b);
  }
  out[threadIdx.x] = 1;
}

__global__ void half_a_warp(const uint32_t*, uint32_t* out) {
  const uint32_t a[4] = {}, b[2] = {};
  float d[4] = {};
  mma_bf16(d, a, b);
  out[threadIdx.x] = 1;
}

__global__ void misplaced_row(const uint32_t*, uint32_t* out) {
  IRECGAN_DYNAMIC_SHARED(uint32_t, staged);
  uint32_t words[4];
  load_matrices(words, reinterpret_cast<const char*>(staged + 1));
  out[threadIdx.x] = words[0];
}

using Kernel = void (*)(const uint32_t*, uint32_t*);

const char* launch_words(Kernel kernel, int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return simt::outcome(reversed, [=] { IRECGAN_LAUNCH(kernel, 1u, threads, 512u, nullptr, in, out); });
}

}  // namespace

extern "C" {

const char* run_fragments(int reversed, int bf16, const uint32_t* a, const uint32_t* b, float* d) {
  constexpr auto in_bf16 = fragments<true>, in_tf32 = fragments<false>;
  return simt::outcome(reversed, [=] { IRECGAN_LAUNCH(bf16 ? in_bf16 : in_tf32, 1u, 32u, 0u, nullptr, a, b, d); });
}
const char* run_matrices(int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return launch_words(matrices, reversed, threads, in, out);
}
const char* run_copies(int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return launch_words(copies, reversed, threads, in, out);
}
const char* run_round(int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return launch_words(round_to_tf32, reversed, threads, in, out);
}
const char* run_divided(int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return launch_words(divided, reversed, threads, in, out);
}
const char* run_half_a_warp(int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return launch_words(half_a_warp, reversed, threads, in, out);
}
const char* run_misplaced_row(int reversed, unsigned threads, const uint32_t* in, uint32_t* out) {
  return launch_words(misplaced_row, reversed, threads, in, out);
}

}  // extern "C"
