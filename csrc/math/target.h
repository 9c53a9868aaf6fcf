// What lets the headers of this folder compile for host and device alike.
// Host functions have internal linkage and are always inlined: the same header is compiled once per instruction set,
// and a linker must never merge an AVX-512 copy into the code that runs on an older processor.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define IRECGAN_HD __host__ __device__ __forceinline__
#else
#define IRECGAN_HD static inline __attribute__((always_inline))
#endif
