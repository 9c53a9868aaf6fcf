#include "linear_log_prob.h"

#include <algorithm>
#include <cmath>

#include "block_units.h"
#include "buffer.h"
#include "matmul.h"

namespace irecgan::cpu {
namespace {

// The backward pass holds the gradient by the logits of a tile of kTileRows x kTileItems (0.5 MB) and its transpose.
// Its sizes, and those of the blocks whose products may be left out, do not depend on the number of threads, so neither
// do the results.
constexpr int64_t kTileRows = kUnitRows;
constexpr int64_t kTileItems = 256;
constexpr int64_t kTileBlocks = kTileItems / kBlock;
constexpr int64_t kFewRows = 129;  // of a block of the tile where there are few blocks of items
constexpr int64_t kRowBlocks = kTileRows / kFewRows;
constexpr int64_t kProductRows = 126;          // of hidden's gradient, that one thread multiplies at a time
constexpr int64_t kProductItems = 2 * kBlock;  // of weight's

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

Projection projection_of(const LinearLogProb& in) { return {in.weight, in.bias, in.items, in.width, nullptr, nullptr}; }

class Backward {
 public:
  Backward(const Runtime& runtime, const LinearLogProb& in, const float* grad, const double* log_sum_exp,
           float* hidden_grad, float* weight_grad, float* bias_grad)
      : runtime_(runtime),
        in_(in),
        projection_(projection_of(in)),
        grad_(grad),
        log_sum_exp_(log_sum_exp),
        hidden_grad_(hidden_grad),
        weight_grad_(weight_grad),
        bias_grad_(bias_grad),
        block_rows_(in.items < kTileItems ? kFewRows : kTileRows) {
    float largest = 0;
    for (int64_t r = 0; r < in.rows; ++r) largest = std::max(largest, std::abs(grad[r]));
    // An infinite gradient must not hide those of the other rows.
    bound_ = std::isfinite(largest) ? largest * 0x1p-24f / static_cast<float>(in.items) : 0.0f;
  }

  // Tiles of items outside: a weight is read from memory once, and its gradient written once.
  void run() {
    const int64_t tile = std::min(kTileRows, in_.rows) * std::min(kTileItems, in_.items);
    by_row_.reserve(tile);
    if (weight_grad_ != nullptr) {
      by_item_.reserve(tile);
      pack_hidden();
    }
    for (item_ = 0; item_ < in_.items; item_ += kTileItems) {
      items_ = std::min(kTileItems, in_.items - item_);
      if (hidden_grad_ != nullptr) {
        weights_.reserve(packed_size(items_, in_.width));
        pack_rows(runtime_, in_.weight + item_ * in_.width, items_, in_.width, weights_.data());
      }
      for (row_ = 0; row_ < in_.rows; row_ += kTileRows) {
        rows_ = std::min(kTileRows, in_.rows - row_);
        run_tile();
      }
    }
  }

 private:
  float* hidden_of(int64_t row) { return hidden_.data() + packed_size(row, in_.width); }

  void pack_hidden() {
    hidden_.reserve(packed_size(in_.rows, in_.width));
    for (int64_t row = 0; row < in_.rows; row += kTileRows) {
      const int64_t rows = std::min(kTileRows, in_.rows - row);
      pack_rows(runtime_, in_.hidden + row * in_.width, rows, in_.width, hidden_of(row));
    }
  }

  void run_tile() {
    const int64_t row_blocks = ceil_divide(rows_, block_rows_);
    const int64_t item_blocks = block_count(items_);
    runtime_.parallel_for(row_blocks * item_blocks, 1, [&](int64_t begin, int64_t end) {
      Buffer<float> panel;
      panel.reserve(in_.width * kBlock);
      for (int64_t i = begin; i < end; ++i) make_gradients(i % row_blocks, i / row_blocks, panel.data());
    });
    const int64_t by_row = hidden_grad_ == nullptr ? 0 : ceil_divide(rows_, kProductRows);
    const int64_t by_item = weight_grad_ == nullptr && bias_grad_ == nullptr ? 0 : ceil_divide(items_, kProductItems);
    runtime_.parallel_for(by_row + by_item, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i < by_row) {
          add_hidden_grad(i * kProductRows);
        } else {
          add_item_grads((i - by_row) * kProductItems);
        }
      }
    });
  }

  // Both forms of the tile: grad_r ([c = target_r] - p_rc)
  void make_gradients(int64_t row_block, int64_t item_block, float* panel) {
    const int64_t row = row_block * block_rows_, item = item_block * kBlock;  // within the tile
    const int64_t rows = std::min(block_rows_, rows_ - row);
    float* by_item = weight_grad_ == nullptr ? nullptr : by_item_.data() + item * rows_ + row;
    const LogitGradient gradient{in_.targets, log_sum_exp_, grad_, bound_, by_row_.data() + row * items_ + item,
                                 items_,      by_item,      rows_};
    counts_[row_block][item_block] = kernel_.gradient_block(projection_, in_.hidden, row_ + row, row_ + row + rows,
                                                            item_ / kBlock + item_block, gradient, panel);
  }

  // Whether entries count in one of the tile's blocks that hold some of these rows and items.
  bool any_counts(int64_t row, int64_t rows, int64_t item, int64_t items) const {
    for (int64_t r = row / block_rows_; r * block_rows_ < row + rows; ++r) {
      const bool* counts = counts_[r];
      if (std::any_of(counts + item / kBlock, counts + block_count(item + items), [](bool c) { return c; }))
        return true;
    }
    return false;
  }

  void add_hidden_grad(int64_t row) {
    const int64_t rows = std::min(kProductRows, rows_ - row);
    float* out = hidden_grad_ + row_ * in_.width;
    const bool first = item_ == 0;
    if (any_counts(row, rows, 0, items_)) {
      kernel_.packed_linear({by_row_.data(), nullptr, items_, in_.width, weights_.data(), nullptr, out, !first}, row,
                            row + rows);
    } else if (first) {
      std::fill_n(out + row * in_.width, rows * in_.width, 0.0f);
    }
  }

  void add_item_grads(int64_t item) {
    const int64_t items = std::min(kProductItems, items_ - item);
    const bool first = row_ == 0;
    if (bias_grad_ != nullptr)
      kernel_.sum_rows(by_row_.data() + item, items_, rows_, items, bias_grad_ + item_ + item, !first);
    if (weight_grad_ == nullptr) return;
    float* out = weight_grad_ + item_ * in_.width;
    if (any_counts(0, rows_, item, items)) {
      kernel_.packed_linear({by_item_.data(), nullptr, rows_, in_.width, hidden_of(row_), nullptr, out, !first}, item,
                            item + items);
    } else if (first) {
      std::fill_n(out + item * in_.width, items * in_.width, 0.0f);
    }
  }

  const Runtime& runtime_;
  const LinearLogProb& in_;
  const Projection projection_;
  const Kernels& kernel_ = kernels();
  const float* grad_;
  const double* log_sum_exp_;
  float* hidden_grad_;
  float* weight_grad_;
  float* bias_grad_;
  Buffer<float> by_row_;   // [rows_, items_], the tile
  Buffer<float> by_item_;  // [items_, rows_]
  Buffer<float> hidden_;   // all rows, packed tile by tile
  Buffer<float> weights_;  // the tile's, packed
  float bound_;
  int64_t block_rows_;
  bool counts_[kRowBlocks][kTileBlocks];               // whether a block of the tile has entries that count
  int64_t row_ = 0, rows_ = 0, item_ = 0, items_ = 0;  // the tile
};

}  // namespace

void linear_log_prob(const Runtime& runtime, const LinearLogProb& in, float* log_prob, double* log_sum_exps) {
  const Kernels& kernel = kernels();
  const Projection projection = projection_of(in);
  const int64_t blocks = block_count(in.items);
  Buffer<float> shifts, sums;  // [R, blocks]
  const BlockStats<float> stats{shifts.reserve(in.rows * blocks), sums.reserve(in.rows * blocks)};
  for_each_unit(runtime, projection, in.rows, [&](int64_t first, int64_t last, int64_t block, float* panel) {
    kernel.log_prob_block(projection, in.hidden, first, last, block, stats, in.targets, log_prob, panel);
  });
  runtime.parallel_for(in.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      log_sum_exps[r] = kernel.log_sum_exp(blocks, {stats.shift + r * blocks, stats.sum + r * blocks});
      log_prob[r] = static_cast<float>(log_prob[r] - log_sum_exps[r]);
    }
  });
}

void linear_log_prob_backward(const Runtime& runtime, const LinearLogProb& in, const float* grad,
                              const double* log_sum_exp, float* hidden_grad, float* weight_grad, float* bias_grad) {
  Backward(runtime, in, grad, log_sum_exp, hidden_grad, weight_grad, bias_grad).run();
}

}  // namespace irecgan::cpu
