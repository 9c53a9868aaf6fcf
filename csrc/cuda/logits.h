// A tile of a linear layer's outputs, for the kernels that need logits and keep none.
#pragma once

#include "linear_stats.h"
#include "tile.h"

namespace irecgan::cuda {

// sums = logits of rows row.. and items item..; absent items -inf.
template <typename T, bool kAligned>
__device__ __forceinline__ void tile_logits(const LinearLayer<T>& layer, int64_t row, int64_t item, char* shared,
                                            const TilePlace& place, TileSums& sums) {
  tile_product<T, kAligned>(Operand<T>{layer.hidden, layer.rows, layer.width}, row,
                            Operand<T>{layer.weight, layer.items, layer.width}, item, layer.width, shared, place, sums);
#pragma unroll
  for (int n = 0; n < kWarpColumns / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int64_t at = item + place.column(n) + j;
      float bias = at < layer.items ? 0.0f : -kInfinity;
      if (layer.bias != nullptr && at < layer.items) bias = to_float(layer.bias[at]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        sums[m][n][j] += bias;
        sums[m][n][2 + j] += bias;
      }
    }
  }
}

}  // namespace irecgan::cuda
