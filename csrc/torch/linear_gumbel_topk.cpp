// irecgan_ext::linear_gumbel_topk on the CPU.
#include "../cpu/linear_gumbel_topk.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "faults.h"
#include "runtime.h"
#include "tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

#define IRECGAN_LINEAR_GUMBEL_TOPK_ARGS                                                                       \
  "(Tensor hidden, Tensor weight, Tensor? bias, int k, Tensor seed, Tensor rows, int step, Tensor? exclude, " \
  "Tensor? mask, bool log_prob)"

// Bits of the items that may not be drawn, [R, block_count(C)]; empty if all may.
std::vector<uint64_t> excluded_items(int64_t rows, int64_t items, const std::optional<Tensor>& exclude,
                                     const std::optional<Tensor>& mask) {
  std::vector<uint64_t> bits;
  if (!exclude && !mask) return bits;
  const int64_t blocks = block_count(items);
  bits.assign(static_cast<size_t>(rows * blocks), 0);
  const auto set = [&](int64_t row, int64_t item) {
    bits[static_cast<size_t>(row * blocks + item / kBlock)] |= uint64_t{1} << (item % kBlock);
  };
  if (exclude) {
    const Tensor list = dense(*exclude);
    const int64_t* data = list.const_data_ptr<int64_t>();
    const int64_t width = list.size(1);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t x = 0; x < width; ++x) {
        if (data[r * width + x] >= 0) set(r, data[r * width + x]);
      }
    }
  }
  if (mask) {
    const Tensor allowed = dense(*mask);
    const bool* data = allowed.const_data_ptr<bool>();
    const int64_t stride = allowed.dim() == 1 ? 0 : items;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < items; ++i) {
        if (!data[r * stride + i]) set(r, i);
      }
    }
  }
  return bits;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_gumbel_topk(const Tensor& hidden, const Tensor& weight,
                                                              const std::optional<Tensor>& bias, int64_t k,
                                                              const Tensor& seed, const Tensor& rows, int64_t step,
                                                              const std::optional<Tensor>& exclude,
                                                              const std::optional<Tensor>& mask, bool log_prob) {
  check_linear_gumbel_topk(hidden, weight, bias, k, seed, rows, step, exclude, mask, log_prob);
  const int64_t count = hidden.size(0);
  Tensor values = torch::stable::new_empty(hidden, {count, k});
  Tensor indices = torch::stable::new_empty(hidden, {count, k}, ScalarType::Long);
  Tensor logsumexp = torch::stable::new_empty(hidden, {count});
  Tensor slate_log_prob = torch::stable::new_empty(hidden, {log_prob ? count : 0});
  const Tensor h = dense(hidden), w = dense(weight), ids = dense(rows);
  const std::optional<Tensor> b = bias ? std::optional<Tensor>(dense(*bias)) : std::nullopt;
  const std::vector<uint64_t> excluded = excluded_items(count, w.size(0), exclude, mask);
  const cpu::Projection projection{w.const_data_ptr<float>(),
                                   b ? b->const_data_ptr<float>() : nullptr,
                                   w.size(0),
                                   w.size(1),
                                   excluded.empty() ? nullptr : excluded.data(),
                                   nullptr};
  cpu::RowFault fault;
  cpu::linear_gumbel_topk(
      torch_runtime(), projection,
      {h.const_data_ptr<float>(), ids.const_data_ptr<int64_t>(), count,
       static_cast<uint64_t>(*seed.const_data_ptr<int64_t>()), static_cast<uint32_t>(step)},
      k,
      {values.mutable_data_ptr<float>(), indices.mutable_data_ptr<int64_t>(), logsumexp.mutable_data_ptr<float>(),
       log_prob ? slate_log_prob.mutable_data_ptr<float>() : nullptr},
      fault);
  report(fault, "hidden", k);
  return {values, indices, logsumexp, slate_log_prob};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(irecgan_ext, m) {
  m.def("linear_gumbel_topk" IRECGAN_LINEAR_GUMBEL_TOPK_ARGS " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("check_linear_gumbel_topk" IRECGAN_LINEAR_GUMBEL_TOPK_ARGS " -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CPU, m) { m.impl("linear_gumbel_topk", TORCH_BOX(&linear_gumbel_topk)); }

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CompositeExplicitAutograd, m) {
  m.impl("check_linear_gumbel_topk", TORCH_BOX(&check_linear_gumbel_topk));
}

}  // namespace irecgan
