// bfloat16 as 16 bits of storage: the upper half of a float. All arithmetic is in float.
#pragma once

#include <cstring>
#include <type_traits>

#include "target.h"

namespace irecgan {

struct BFloat16 {
  uint16_t bits;
};

IRECGAN_HD float to_float(float x) { return x; }
IRECGAN_HD float to_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// float, or BFloat16 to nearest, ties to even. NaN stays NaN: rounding its bits could carry into infinity.
template <typename T>
IRECGAN_HD T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
    return BFloat16{static_cast<uint16_t>(x != x ? 0x7FC0u : rounded >> 16)};
  }
}

}  // namespace irecgan
