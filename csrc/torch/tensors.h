// Small helpers on stable-ABI tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace irecgan {

// The tensor itself where it is contiguous: the dispatcher's own contiguous() costs a microsecond to find that out.
inline torch::stable::Tensor dense(const torch::stable::Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

}  // namespace irecgan
