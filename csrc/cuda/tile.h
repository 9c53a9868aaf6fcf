// The product of 128 rows of one matrix with 128 rows of another, A B^T, by a thread block on the tensor cores: what
// the linear ops do with the result before it leaves the registers is theirs.
//
// bfloat16: sums in float. float: three tf32 products of the operands' upper and lower parts, which together keep about
// 21 bits of each operand. The tensor core rounds its sums towards zero, so they are kept short and added up here.
#pragma once

#include "mma.h"

namespace irecgan::cuda {

constexpr int kTile = 128;  // rows, and columns, of a thread block's tile
constexpr int kTileThreads = 256;
// 4 x 2 warps. A warp's columns are one block of the race (csrc/math/race.h).
constexpr int kWarpRows = 32;
constexpr int kWarpColumns = 64;
constexpr int kRowGroups = kTile / kWarpRows;

constexpr int kChunkBytes = 64;  // of a row, staged at a time
// A staged row's stride: eight rows' 16 bytes at one place fall into different banks.
constexpr int kStagedRow = kChunkBytes + 16;
constexpr int kStages = 3;
constexpr int kStageBytes = 2 * kTile * kStagedRow;
constexpr size_t kTileShared = kStages * kStageBytes;

template <typename T>
constexpr int kPieceItems = static_cast<int>(sizeof(Piece) / sizeof(T));
template <typename T>
constexpr int kChunk = static_cast<int>(kChunkBytes / sizeof(T));

// Thread blocks per multiprocessor that registers have to allow: the split operands and the guarded loads need more
// than the 128 that leave room for two.
template <typename T, bool kAligned>
constexpr int kResident = sizeof(T) == 2 && kAligned ? 2 : 1;

// Rows of `depth` consecutive elements.
template <typename T>
struct Operand {
  const T* data;
  int64_t rows;
  int64_t stride;  // between rows
};

// A warp's 32 x 64 part of the tile, as m16n8 fragments: of [m][n][i] lane l holds row 16 m + 8 (i / 2) + l / 4, column
// 8 n + 2 (l % 4) + i % 2.
using TileSums = float[2][kWarpColumns / 8][4];

// Where a thread's sums lie in the tile.
struct TilePlace {
  __device__ __forceinline__ TilePlace()
      : lane(static_cast<int>(threadIdx.x) % kWarp),
        row_group(static_cast<int>(threadIdx.x) / kWarp % kRowGroups),
        column_group(static_cast<int>(threadIdx.x) / kWarp / kRowGroups) {}

  __device__ __forceinline__ int row(int m, int half) const {
    return row_group * kWarpRows + 16 * m + 8 * half + lane / 4;
  }
  // Of two neighbours.
  __device__ __forceinline__ int column(int n) const { return column_group * kWarpColumns + column_in_warp(n); }
  __device__ __forceinline__ int column_in_warp(int n) const { return 8 * n + lane % 4 * 2; }

  int lane, row_group, column_group;
};

// Tiles that cover [rows, columns]: one thread block each. As many as a grid cannot have would leave terabytes behind.
inline unsigned tile_count(int64_t rows, int64_t columns) {
  return static_cast<unsigned>((rows + kTile - 1) / kTile * ((columns + kTile - 1) / kTile));
}

struct TileCorner {
  int64_t row, column;
};

// Rows inside: neighbouring thread blocks share the columns' operand.
__device__ __forceinline__ TileCorner tile_corner(int64_t rows) {
  const auto row_tiles = static_cast<unsigned>((rows + kTile - 1) / kTile);
  return {static_cast<int64_t>(blockIdx.x % row_tiles) * kTile, static_cast<int64_t>(blockIdx.x / row_tiles) * kTile};
}

// One thread's share of the staging: four pieces per chunk, two rows of either operand.
template <typename T, bool kAligned>
class TileLoader {
 public:
  __device__ __forceinline__ TileLoader(const Operand<T>& a, int64_t a_row, const Operand<T>& b, int64_t b_row,
                                        int64_t depth, char* shared)
      : depth_(depth), piece_(static_cast<int>(threadIdx.x) % 4), to_(shared) {
    const int row = static_cast<int>(threadIdx.x) / 4;
    to_ += row * kStagedRow + piece_ * static_cast<int>(sizeof(Piece));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Operand<T>& operand = i < 2 ? a : b;
      const int64_t at = (i < 2 ? a_row : b_row) + row + i % 2 * (kTile / 2);
      present_[i] = at < operand.rows;
      from_[i] = operand.data + (present_[i] ? at : 0) * operand.stride + piece_ * kPieceItems<T>;
    }
  }

  // Rows and columns outside the operands are zero.
  __device__ __forceinline__ void load(int64_t chunk, int stage) const {
    const int64_t first = chunk * kChunk<T>;
    const int64_t left = depth_ - first - piece_ * kPieceItems<T>;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      char* to = to_ + stage * kStageBytes + i * (kTile / 2) * kStagedRow;
      const T* from = from_[i] + first;
      if constexpr (kAligned) {
        const bool copied = present_[i] && left > 0;
        copy_async(to, copied ? from : from_[i], copied);
      } else {
        T items[kPieceItems<T>];
#pragma unroll
        for (int e = 0; e < kPieceItems<T>; ++e) items[e] = present_[i] && e < left ? from[e] : T{};
        Piece piece;
        std::memcpy(&piece, items, sizeof piece);
        *reinterpret_cast<Piece*>(to) = piece;
      }
    }
    commit_copies();
  }

 private:
  int64_t depth_;
  int piece_;
  char* to_;
  const T* from_[4];
  bool present_[4];
};

// Upper and lower parts of a fragment's floats.
template <int kWords>
struct Split {
  __device__ __forceinline__ explicit Split(const uint32_t* words) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      float x, upper_part;
      std::memcpy(&x, &words[i], sizeof x);
      upper[i] = tf32(x);
      std::memcpy(&upper_part, &upper[i], sizeof upper_part);
      lower[i] = tf32(x - upper_part);
    }
  }
  uint32_t upper[kWords], lower[kWords];
};

// sum += A B, in three products: the lower parts' own is below a float's rounding.
__device__ __forceinline__ void multiply_split(float (&sum)[4], const Split<4>& a, const uint32_t* words) {
  const Split<2> b(words);
  float part[4] = {};
  mma_tf32(part, a.lower, b.upper);
  mma_tf32(part, a.upper, b.lower);
  mma_tf32(part, a.upper, b.upper);
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] += part[i];
}

template <typename T>
__device__ __forceinline__ void multiply_chunk(const char* stage, const TilePlace& place, TileSums& sums) {
  const int lane = place.lane;
  const char* a_rows = stage + (place.row_group * kWarpRows + lane % 16) * kStagedRow + lane / 16 * 16;
  const char* b_rows =
      stage + (kTile + place.column_group * kWarpColumns + lane % 8 + lane / 16 * 8) * kStagedRow + lane / 8 % 2 * 16;
#pragma unroll
  for (int step = 0; step < kChunkBytes / 32; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) load_matrices(a[m], a_rows + m * 16 * kStagedRow + step * 32);
    if constexpr (sizeof(T) == 4) {
      const Split<4> split[2] = {Split<4>(a[0]), Split<4>(a[1])};
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; n += 2) {
        uint32_t b[4];
        load_matrices(b, b_rows + n * 8 * kStagedRow + step * 32);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_split(sums[m][n], split[m], b);
          multiply_split(sums[m][n + 1], split[m], b + 2);
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; n += 2) {
        uint32_t b[4];
        load_matrices(b, b_rows + n * 8 * kStagedRow + step * 32);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_bf16(sums[m][n], a[m], {b[0], b[1]});
          mma_bf16(sums[m][n + 1], a[m], {b[2], b[3]});
        }
      }
    }
  }
}

// sums = rows a_row.. of A times rows b_row.. of B. All threads of the block call it, once; `shared` [kTileShared].
template <typename T, bool kAligned>
__device__ __forceinline__ void tile_product(const Operand<T>& a, int64_t a_row, const Operand<T>& b, int64_t b_row,
                                             int64_t depth, char* shared, const TilePlace& place, TileSums& sums) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kWarpColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
    }
  }
  const int64_t chunks = (depth + kChunk<T> - 1) / kChunk<T>;
  const TileLoader<T, kAligned> loader(a, a_row, b, b_row, depth, shared);
  // Chunks past the end are zeros, so that every step commits one group.
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) loader.load(stage, stage);
  int stage = 0;
#pragma unroll 1
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the chunk is here for all, and all have done with the stage that is filled next
    loader.load(chunk + kStages - 1, (stage + kStages - 1) % kStages);
    multiply_chunk<T>(shared + stage * kStageBytes, place, sums);
    stage = (stage + 1) % kStages;
  }
  wait_copies<0>();
}

}  // namespace irecgan::cuda
