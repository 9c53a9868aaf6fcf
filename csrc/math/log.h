// log without a library call, branch-free, so that compilers vectorise loops over it.
#pragma once

#include <cstring>

#include "target.h"

namespace irecgan {

// At most 1 ulp from log(x) for positive normal x. Argument reduction to [sqrt(1/2), sqrt(2)) and the polynomial in
// s = f / (2 + f) of fdlibm's e_log.c (Sun Microsystems, 1993), which keeps full relative precision near x = 1.
IRECGAN_HD double log_fast(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint64_t biased = (bits + (0x3FF0000000000000u - 0x3FE6A09E667F3BCDu)) >> 52;  // exponent + 1023
  bits -= (biased - 1023u) << 52;
  double m;
  std::memcpy(&m, &bits, sizeof m);
  const uint64_t exponent_bits = 0x4338000000000000u + biased;  // 1.5 * 2^52 + biased: no 64-bit conversion in AVX2
  double n;
  std::memcpy(&n, &exponent_bits, sizeof n);
  n -= 6755399441055744.0 + 1023.0;
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double r = 1.479819860511658591e-01;
  r = r * z + 1.531383769920937332e-01;
  r = r * z + 1.818357216161805012e-01;
  r = r * z + 2.222219843214978396e-01;
  r = r * z + 2.857142874366239149e-01;
  r = r * z + 3.999999999940941908e-01;
  r = r * z + 6.666666666666735130e-01;
  r = r * z;
  const double half = 0.5 * f * f;
  return n * 6.93147180369123816490e-01 - ((half - (s * (half + r) + n * 1.90821492927058770002e-10)) - f);
}

// -log(1 - u) for u in (0, 1), with full relative precision for small u: the rounding of 1 - u is put back.
IRECGAN_HD double exponential_fast(double u) {
  const double v = 1.0 - u;
  return ((v - 1.0) + u) / v - log_fast(v);
}

}  // namespace irecgan
