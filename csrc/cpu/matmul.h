// Matrices packed for products, and a weight matrix that is packed once and then used at every step of a rollout.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "runtime.h"

namespace irecgan::cpu {

// Numbers of `rows` rows of a matrix [rows, columns] that pack_rows packed.
int64_t packed_size(int64_t rows, int64_t columns);
// packed [panels, rows, panel width] = the matrix, zeros beyond the last column: the right side of a product a @
// matrix.
void pack_rows(const Runtime& runtime, const float* matrix, int64_t rows, int64_t columns, float* packed);

class PackedLinear {
 public:
  PackedLinear() = default;
  // weight [n, m], bias [n] or null.
  PackedLinear(const Runtime& runtime, const float* weight, const float* bias, int64_t m, int64_t n);

  bool empty() const { return stride_ == 0; }
  // Distance of the result's rows: n in whole panels.
  int64_t stride() const { return stride_; }

  // out [rows, stride] = x [rows, m] @ weight^T + bias and then columns of no meaning, where row i of x is row index[i]
  // of a, or row i if index is null. A row of the result is the same to the last bit whatever the other rows are.
  void apply(const Runtime& runtime, const float* a, const int64_t* index, int64_t rows, float* out) const;
  // The same on the calling thread.
  void apply_here(const float* a, const int64_t* index, int64_t rows, float* out) const;

 private:
  int64_t inner_ = 0;
  int64_t stride_ = 0;
  Buffer<float> weight_;  // [panels, m, panel width], zeros beyond column n
  Buffer<float> bias_;    // [stride]
};

}  // namespace irecgan::cpu
