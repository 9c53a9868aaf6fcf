// Tensor core products and asynchronous copies: PTX on compute capability 8.0 and above, shuffles and plain loads below
// it or where IRECGAN_NO_TENSOR_CORES is defined, and csrc/simt's emulation on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "../math/bfloat16.h"
#include "warp.h"

#if defined(IRECGAN_NO_TENSOR_CORES) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
#define IRECGAN_SHUFFLED 1
#elif !defined(__CUDACC__)
#include "../simt/async_copy.h"
#include "../simt/warp_matrix.h"
#endif

namespace irecgan::cuda {

// What a thread moves at a time.
struct alignas(16) Piece {
  uint32_t words[4];
};

#if defined(IRECGAN_SHUFFLED)

__device__ __forceinline__ int warp_lane() {
  return static_cast<int>((threadIdx.x + threadIdx.y * blockDim.x) % static_cast<unsigned>(kWarp));
}

// D of a fragment's four places, out of every lane's registers: A's kWords words of a row lie in the four lanes of the
// row's group, B's in the lanes of the column's group.
template <typename Dot>
__device__ __forceinline__ void shuffled_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Dot dot) {
  const int lane = warp_lane();
#pragma unroll 1  // a tile has many of these
  for (int k = 0; k < 8; ++k) {
    const int place = k % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t left = __shfl_sync(kAllLanes, a[k / 4 * 2 + i / 2], lane / 4 * 4 + place);
      const uint32_t right = __shfl_sync(kAllLanes, b[k / 4], (lane % 4 * 2 + i % 2) * 4 + place);
      d[i] = dot(left, right, d[i]);
    }
  }
}

__device__ __forceinline__ float word_as_float(uint32_t word) {
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

#endif

// D [16, 8] += A [16, 16] B [16, 8], bfloat16 in, float32 out; fragments as in the PTX ISA's mma.m16n8k16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(IRECGAN_SHUFFLED)
  shuffled_mma(d, a, b, [](uint32_t x, uint32_t y, float sum) {
    sum += word_as_float(x << 16) * word_as_float(y << 16);
    return sum + word_as_float(x & 0xFFFF0000u) * word_as_float(y & 0xFFFF0000u);
  });
#elif defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::mma_m16n8k16_bf16(d, a, b);
#endif
}

// D [16, 8] += A [16, 8] B [8, 8], tf32 in, float32 out; mma.m16n8k8.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(IRECGAN_SHUFFLED)
  shuffled_mma(d, a, b, [](uint32_t x, uint32_t y, float sum) { return sum + word_as_float(x) * word_as_float(y); });
#elif defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::mma_m16n8k8_tf32(d, a, b);
#endif
}

// The float rounded to tf32's 10 bits of mantissa, as a register.
__device__ __forceinline__ uint32_t tf32(float x) {
#if defined(IRECGAN_SHUFFLED)
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & 0xFFFFE000u;
#elif defined(__CUDACC__)
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  return simt::tf32_bits(x);
#endif
}

// Four matrices of 8 rows of 16 bytes from shared memory: lane l names row l % 8 of matrix l / 8 and gets word l % 4 of
// row l / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const char* row) {
#if defined(IRECGAN_SHUFFLED)
  uint32_t words[4];
  std::memcpy(words, row, sizeof words);
  const int lane = warp_lane();
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    out[m] = 0;
#pragma unroll
    for (int place = 0; place < 4; ++place) {
      const uint32_t word = __shfl_sync(kAllLanes, words[place], 8 * m + lane / 4);
      out[m] = place == lane % 4 ? word : out[m];
    }
  }
#elif defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  simt::ldmatrix_x4(out, row);
#endif
}

// 16 bytes from global to shared memory, or zeros where not `present`; both addresses multiples of 16.
__device__ __forceinline__ void copy_async(char* to, const void* from, bool present) {
#if defined(IRECGAN_SHUFFLED)
  Piece bytes{};
  if (present) bytes = *static_cast<const Piece*>(from);
  *reinterpret_cast<Piece*>(to) = bytes;
#elif defined(__CUDACC__)
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(__cvta_generic_to_global(from)), "r"(present ? 16 : 0)
      : "memory");
#else
  simt::copy_async_16(to, from, present);
#endif
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
#if !defined(IRECGAN_SHUFFLED) && defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(IRECGAN_SHUFFLED)
  simt::commit_copies();
#endif
}

// Until at most kGroups of this thread's groups are under way.
template <int kGroups>
__device__ __forceinline__ void wait_copies() {
#if !defined(IRECGAN_SHUFFLED) && defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#elif !defined(IRECGAN_SHUFFLED)
  simt::wait_copies(kGroups);
#endif
}

}  // namespace irecgan::cuda
