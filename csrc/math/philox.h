// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the package's counter
// layout.
#pragma once

#include "target.h"

namespace irecgan {

struct Words {
  uint32_t w[4];
};

enum class Purpose : uint32_t { kArrival = 0, kPick = 1, kClick = 2 };

// Who draws: the key and every counter word but the block. Never a thread, tile or batch position.
//   counter = (block, step | completion << 16, row low 32 bits, row bits 32..39 | spawn << 8 | purpose << 24)
struct Stream {
  uint64_t seed;
  int64_t row;          // global row id, < 2^40
  uint32_t step;        // absolute step of the session, < 2^16
  uint32_t spawn;       // 0: a root; t + 1: a completion that branched off after step t
  uint32_t completion;  // n in 0..N-1; 0 for a root
};

IRECGAN_HD Words philox4x32_10(Words c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c.w[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c.w[2];
    c = Words{{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// `draw` for N counters at once, as loops that vectorise: c[w][i] is word w of counter i, replaced by its random words.
template <int N>
IRECGAN_HD void philox4x32_10(uint32_t (&c)[4][N], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < N; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0][i];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2][i];
      const uint32_t w0 = static_cast<uint32_t>(p1 >> 32) ^ c[1][i] ^ k0;
      const uint32_t w2 = static_cast<uint32_t>(p0 >> 32) ^ c[3][i] ^ k1;
      c[0][i] = w0;
      c[1][i] = static_cast<uint32_t>(p1);
      c[2][i] = w2;
      c[3][i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

IRECGAN_HD Words counter(const Stream& s, Purpose purpose, uint32_t block) {
  const auto row = static_cast<uint64_t>(s.row);
  return Words{{block, s.step | s.completion << 16, static_cast<uint32_t>(row),
                static_cast<uint32_t>(row >> 32) | s.spawn << 8 | static_cast<uint32_t>(purpose) << 24}};
}

IRECGAN_HD Words draw(const Stream& s, Purpose purpose, uint32_t block) {
  return philox4x32_10(counter(s, purpose, block), static_cast<uint32_t>(s.seed), static_cast<uint32_t>(s.seed >> 32));
}

// Uniform on (0, 1) from 64 bits. Small values keep their full relative precision, which is what the tail that wins
// needs; u = 0 cannot occur, and u = 1 is excluded because -log1p(-1) is infinite.
IRECGAN_HD double uniform(uint32_t lo, uint32_t hi) {
  const double u = hi * 0x1p-32 + (lo + 0.5) * 0x1p-64;
  return u < 1.0 - 0x1p-53 ? u : 1.0 - 0x1p-53;
}

}  // namespace irecgan
