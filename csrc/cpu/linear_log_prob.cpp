#include "linear_log_prob.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"

namespace irecgan::cpu {
namespace {

// Blocks are what one thread multiplies at a time. Their sizes do not depend on the number of threads, so neither do
// the results. The backward pass holds a tile of kTileRows x kTileItems gradients (2 MB): it is used twice, by rows for
// hidden's gradient and by items for weight's.
constexpr int64_t kBlockRows = 256;
constexpr int64_t kBlockItems = 512;
constexpr int64_t kTileRows = 512;
constexpr int64_t kTileItems = 1024;
constexpr int64_t kTileBlocks = kTileItems / kBlockItems;

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct FreeAligned {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using Buffer = std::unique_ptr<float[], FreeAligned>;

// Not initialised; aligned, so that matrix products take the same path wherever the memory lies.
Buffer make_buffer(int64_t size) { return Buffer(new (std::align_val_t{64}) float[static_cast<size_t>(size)]); }

Matrix hidden_rows(const LinearLogProb& in, int64_t first, int64_t count) {
  return {in.hidden + first * in.width, count, in.width, in.width};
}

Matrix weight_rows(const LinearLogProb& in, int64_t first, int64_t count) {
  return {in.weight + first * in.width, count, in.width, in.width};
}

constexpr float kNoBias[kBlockItems] = {};

const float* bias_of(const LinearLogProb& in, int64_t first) { return in.bias == nullptr ? kNoBias : in.bias + first; }

// What the forward pass keeps of each row: its target's logit, and of each block of items the statistics.
struct RowStats {
  int64_t blocks;  // of items
  Buffer max;      // [R, blocks]
  Buffer sum;      // [R, blocks]
  float* target;   // [R]
};

void block_forward(const Runtime& runtime, const LinearLogProb& in, int64_t row, int64_t block, float* tile,
                   const RowStats& stats) {
  const Kernels& kernel = kernels();
  const int64_t item = block * kBlockItems;
  const int64_t rows = std::min(kBlockRows, in.rows - row);
  const int64_t items = std::min(kBlockItems, in.items - item);
  runtime.product(tile, items, hidden_rows(in, row, rows), weight_rows(in, item, items).transposed(), false);
  const float* bias = bias_of(in, item);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (row + i) * stats.blocks + block;
    kernel.row_stats(tile + i * items, bias, items, &stats.max[at], &stats.sum[at]);
    const int64_t target = in.targets[row + i] - item;
    if (target >= 0 && target < items) stats.target[row + i] = tile[i * items + target] + bias[target];
  }
}

// In block order and double: the blocks of a large catalogue must not add their rounding.
void merge_blocks(const RowStats& stats, int64_t row, float* log_prob, double* log_sum_exp) {
  const float* max = stats.max.get() + row * stats.blocks;
  const float* sum = stats.sum.get() + row * stats.blocks;
  const double largest = *std::max_element(max, max + stats.blocks);
  double total = 0;
  for (int64_t b = 0; b < stats.blocks; ++b) {
    // Where a block is all -inf its sum is 0; a NaN in it is not to be lost.
    const double weight = max[b] == -std::numeric_limits<float>::infinity() ? 1.0 : std::exp(max[b] - largest);
    total += weight * sum[b];
  }
  const double log_total = std::log(total);
  log_prob[row] = static_cast<float>((stats.target[row] - largest) - log_total);
  log_sum_exp[row] = largest + log_total;
}

class Backward {
 public:
  Backward(const Runtime& runtime, const LinearLogProb& in, const float* grad, const double* log_sum_exp,
           float* hidden_grad, float* weight_grad, float* bias_grad)
      : runtime_(runtime),
        in_(in),
        grad_(grad),
        log_sum_exp_(log_sum_exp),
        hidden_grad_(hidden_grad),
        weight_grad_(weight_grad),
        bias_grad_(bias_grad),
        tile_(make_buffer(std::min(kTileRows, in.rows) * std::min(kTileItems, in.items))) {
    float largest = 0;
    for (int64_t r = 0; r < in.rows; ++r) largest = std::max(largest, std::abs(grad[r]));
    // An infinite gradient must not hide those of the other rows.
    bound_ = std::isfinite(largest) ? largest * 0x1p-24f / static_cast<float>(in.items) : 0.0f;
  }

  // Tiles of items outside: a weight is read from memory once, and its gradient written once.
  void run() {
    for (item_ = 0; item_ < in_.items; item_ += kTileItems) {
      items_ = std::min(kTileItems, in_.items - item_);
      for (row_ = 0; row_ < in_.rows; row_ += kTileRows) {
        rows_ = std::min(kTileRows, in_.rows - row_);
        run_tile();
      }
    }
  }

 private:
  void run_tile() {
    const int64_t row_blocks = ceil_divide(rows_, kBlockRows);
    const int64_t item_blocks = ceil_divide(items_, kBlockItems);
    runtime_.parallel_for(row_blocks * item_blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) make_gradients(i % row_blocks, i / row_blocks);
    });
    const int64_t by_row = hidden_grad_ == nullptr ? 0 : row_blocks;
    const int64_t by_item = weight_grad_ == nullptr && bias_grad_ == nullptr ? 0 : item_blocks;
    runtime_.parallel_for(by_row + by_item, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i < by_row) {
          add_hidden_grad(i);
        } else {
          add_item_grads(i - by_row);
        }
      }
    });
  }

  // tile[r, c] = grad_r ([c = target_r] - p_rc)
  void make_gradients(int64_t row_block, int64_t item_block) {
    const Kernels& kernel = kernels();
    const int64_t row = row_block * kBlockRows, item = item_block * kBlockItems;  // within the tile
    const int64_t rows = std::min(kBlockRows, rows_ - row), items = std::min(kBlockItems, items_ - item);
    float* block = tile_.get() + row * items_ + item;
    runtime_.product(block, items_, hidden_rows(in_, row_ + row, rows),
                     weight_rows(in_, item_ + item, items).transposed(), false);
    const float* bias = bias_of(in_, item_ + item);
    bool counts = false;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t r = row_ + row + i;
      float* entries = block + i * items_;
      float largest = kernel.softmax_gradient(entries, bias, items, log_sum_exp_[r], grad_[r]);
      const int64_t target = in_.targets[r] - (item_ + item);
      if (target >= 0 && target < items) {
        entries[target] += grad_[r];
        largest = std::max(largest, std::abs(entries[target]));
      }
      counts |= !(largest < bound_);  // NaN counts
    }
    counts_[row_block][item_block] = counts;
  }

  void add_hidden_grad(int64_t row_block) {
    const int64_t row = row_block * kBlockRows;
    const int64_t rows = std::min(kBlockRows, rows_ - row);
    float* out = hidden_grad_ + (row_ + row) * in_.width;
    const bool first = item_ == 0;
    const bool* counts = counts_[row_block];
    if (std::any_of(counts, counts + ceil_divide(items_, kBlockItems), [](bool c) { return c; })) {
      runtime_.product(out, in_.width, {tile_.get() + row * items_, rows, items_, items_},
                       weight_rows(in_, item_, items_), !first);
    } else if (first) {
      std::fill_n(out, rows * in_.width, 0.0f);
    }
  }

  void add_item_grads(int64_t item_block) {
    const int64_t item = item_block * kBlockItems;
    const int64_t items = std::min(kBlockItems, items_ - item);
    const bool first = row_ == 0;
    const float* block = tile_.get() + item;
    if (bias_grad_ != nullptr) kernels().sum_rows(block, items_, rows_, items, bias_grad_ + item_ + item, !first);
    if (weight_grad_ == nullptr) return;
    float* out = weight_grad_ + (item_ + item) * in_.width;
    bool counts = false;
    for (int64_t b = 0; b < ceil_divide(rows_, kBlockRows); ++b) counts |= counts_[b][item_block];
    if (counts) {
      const Matrix entries{block, rows_, items, items_};
      runtime_.product(out, in_.width, entries.transposed(), hidden_rows(in_, row_, rows_), !first);
    } else if (first) {
      std::fill_n(out, items * in_.width, 0.0f);
    }
  }

  const Runtime& runtime_;
  const LinearLogProb& in_;
  const float* grad_;
  const double* log_sum_exp_;
  float* hidden_grad_;
  float* weight_grad_;
  float* bias_grad_;
  Buffer tile_;  // [rows_, items_]
  float bound_;
  bool counts_[kTileRows / kBlockRows][kTileBlocks];   // whether a block of the tile has entries that count
  int64_t row_ = 0, rows_ = 0, item_ = 0, items_ = 0;  // the tile
};

}  // namespace

void linear_log_prob(const Runtime& runtime, const LinearLogProb& in, float* log_prob, double* log_sum_exp) {
  const int64_t blocks = ceil_divide(in.items, kBlockItems);
  const int64_t row_blocks = ceil_divide(in.rows, kBlockRows);
  const RowStats stats{blocks, make_buffer(in.rows * blocks), make_buffer(in.rows * blocks), log_prob};
  // Rows inside: the block of weights stays in the cache.
  runtime.parallel_for(blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    const Buffer tile = make_buffer(std::min(kBlockRows, in.rows) * std::min(kBlockItems, in.items));
    for (int64_t i = begin; i < end; ++i)
      block_forward(runtime, in, i % row_blocks * kBlockRows, i / row_blocks, tile.get(), stats);
  });
  runtime.parallel_for(in.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) merge_blocks(stats, r, log_prob, log_sum_exp);
  });
}

void linear_log_prob_backward(const Runtime& runtime, const LinearLogProb& in, const float* grad,
                              const double* log_sum_exp, float* hidden_grad, float* weight_grad, float* bias_grad) {
  Backward(runtime, in, grad, log_sum_exp, hidden_grad, weight_grad, bias_grad).run();
}

}  // namespace irecgan::cpu
