// A projection as units of work, each a block of items for some rows.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "kernels.h"
#include "runtime.h"

namespace irecgan::cpu {

constexpr int64_t kUnitRows = 516;  // at most: their states, and a block's packed weights, stay in cache
constexpr int64_t kRowsStep = 6;    // rows that the product takes at a time

// f(first row, last row, block, panel [H * 64] scratch) for every block and all of `count` rows, on all threads.
template <typename F>
void for_each_unit(const Runtime& runtime, const Projection& projection, int64_t count, const F& f) {
  constexpr int64_t kGrain = 4;
  const int64_t blocks = block_count(projection.items);
  // Units of about the same size: a thread's range of them must not be a range of small ones.
  const int64_t row_tiles = (count + kUnitRows - 1) / kUnitRows;
  const int64_t even = row_tiles == 0 ? 0 : (count + row_tiles - 1) / row_tiles;
  const int64_t tile_rows = (even + kRowsStep - 1) / kRowsStep * kRowsStep;
  runtime.parallel_for(blocks * row_tiles, kGrain, [&](int64_t begin, int64_t end) {
    Buffer<float> panel;
    panel.reserve(projection.width * kBlock);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / blocks * tile_rows;
      f(first, std::min(count, first + tile_rows), unit % blocks, panel.data());
    }
  });
}

}  // namespace irecgan::cpu
