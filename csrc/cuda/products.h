// Products of rows with a weight matrix, where only the device knows how many rows there are: tiles of 64 x 64 by a
// fixed number of thread blocks, float32 throughout.
#pragma once

#include "race.h"

namespace irecgan::cuda {

constexpr int kTile = 64;  // also the items of a block of the race, so that a tile row is one block
constexpr int kTileInner = 16;
constexpr int kTileThreads = 256;
constexpr int kMaxProducts = 6;

static_assert(kTile == kBlock);

// out[r, c] = a[index[r]] . weight[c] + bias[c]
struct Product {
  const float* a;        // [.., inner]
  const int32_t* index;  // [*count] rows of a; null: row r is r
  const int32_t* count;  // [] rows, on the device
  const float* weight;   // [columns, inner]
  const float* bias;     // [columns]
  int64_t inner, columns;
  float* out;  // [*count, columns], or null
  float* max;  // [*count, block_count(columns)] of each block of 64 columns, or null
  float* sum;  // likewise, of exp(x - max)
};

struct Products {
  Product product[kMaxProducts];
  int count = 0;

  void add(const Product& p) { product[count++] = p; }
};

struct alignas(16) TileMemory {
  float a[kTileInner][kTile + 4];  // rows start at whole vectors
  float b[kTileInner][kTile + 4];
};

struct alignas(16) TileRow {
  float x[4];
};

// 16 x 16 threads, each 4 x 4 entries of the tile.
__device__ inline void multiply_tile(const Product& p, int64_t first_row, int64_t rows, int64_t first_column,
                                     TileMemory& tile, float (&sums)[4][4]) {
  const int thread = static_cast<int>(threadIdx.x), k = thread % kTileInner;
  const int row = thread / 16 * 4, column = thread % 16 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = 0;
  for (int64_t begin = 0; begin < p.inner; begin += kTileInner) {
    const bool inside = begin + k < p.inner;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = thread / kTileInner + 16 * i;
      const int64_t r = first_row + at, c = first_column + at;
      const int64_t source = r < rows && p.index != nullptr ? p.index[r] : r;
      tile.a[k][at] = inside && r < rows ? p.a[source * p.inner + begin + k] : 0.0f;
      tile.b[k][at] = inside && c < p.columns ? p.weight[c * p.inner + begin + k] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int l = 0; l < kTileInner; ++l) {
      const TileRow a = *reinterpret_cast<const TileRow*>(&tile.a[l][row]);
      const TileRow b = *reinterpret_cast<const TileRow*>(&tile.b[l][column]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += a.x[i] * b.x[j];
    }
    __syncthreads();
  }
}

__device__ inline void store_tile(const Product& p, int64_t first_row, int64_t rows, int64_t first_column,
                                  const float (&sums)[4][4]) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t r = first_row + thread / 16 * 4 + i;
    float x[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t c = first_column + thread % 16 * 4 + j;
      x[j] = c < p.columns ? sums[i][j] + p.bias[c] : -kInfinity;
      if (p.out != nullptr && r < rows && c < p.columns) p.out[r * p.columns + c] = x[j];
    }
    if (p.max == nullptr) continue;
    const LogitStats<float> stats = block_stats<16>(x);
    const int64_t at = r * block_count(p.columns) + first_column / kBlock;
    if (thread % 16 != 0 || r >= rows) continue;
    p.max[at] = stats.max;
    p.sum[at] = stats.sum;
  }
}

static __global__ void __launch_bounds__(kTileThreads) products_kernel(Products products) {
  __shared__ TileMemory tile;
  const Product& p = products.product[blockIdx.y];
  const int64_t rows = *p.count;
  const int64_t high = (rows + kTile - 1) / kTile, tiles = high * ((p.columns + kTile - 1) / kTile);
  // Neighbouring thread blocks take the same columns of different rows: the weights are read by all of them at once.
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t first_row = t % high * kTile, first_column = t / high * kTile;
    float sums[4][4];
    multiply_tile(p, first_row, rows, first_column, tile, sums);
    store_tile(p, first_row, rows, first_column, sums);
  }
}

}  // namespace irecgan::cuda
