// What keys a call's noise (csrc/math/philox.h).
#pragma once

#include <cstdint>

namespace irecgan::cuda {

struct NoiseKey {
  const int64_t* rows;         // [R] global row ids, 0..2^40 - 1
  const int64_t* device_seed;  // [], read when the kernels run; null: host_seed
  int64_t host_seed;
  int64_t step;
};

}  // namespace irecgan::cuda
