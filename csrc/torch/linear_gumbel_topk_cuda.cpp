// irecgan_ext::linear_gumbel_topk on CUDA devices. The schema is _C's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "../cuda/linear_gumbel_topk.h"
#include "../math/race.h"
#include "cuda_tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

struct Draws {
  Tensor values;     // [R, k]
  Tensor indices;    // [R, k]
  Tensor logsumexp;  // [R]
  Tensor log_prob;   // [R], or [0] if not wanted
};

template <typename T>
void sample(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t k,
            const Tensor& seed, const Tensor& rows, int64_t step, const std::optional<Tensor>& exclude,
            const std::optional<Tensor>& mask, bool log_prob, Draws& draws) {
  const Tensor h = dense(hidden), w = dense(weight), ids = dense(rows);
  const std::optional<Tensor> b = dense(bias), list = dense(exclude), allowed = dense(mask);
  const int64_t count = h.size(0), blocks = block_count(w.size(0));
  const auto scratch = [&](ScalarType type) { return torch::stable::new_empty(hidden, {count, blocks}, type); };
  // Torch's allocator orders their reuse after the kernels on this stream.
  Tensor stats = scratch(ScalarType::Double), log_times = scratch(ScalarType::Double),
         taken = scratch(ScalarType::Long);
  std::optional<Tensor> excluded;
  if (list || allowed) excluded = scratch(ScalarType::Long);

  Tensor drawn_logits = torch::stable::new_empty(hidden, {log_prob ? count * k : 0}, ScalarType::Float);

  cuda::LinearGumbelTopk<T> op{};
  op.layer = {data<T>(h), data<T>(w), data<T>(b), count, w.size(0), w.size(1)};
  op.key = noise_key(ids, seed, step);
  op.k = k;
  op.exclude = data<int64_t>(list);
  op.exclude_width = list ? list->size(1) : 0;
  op.mask = data<bool>(allowed);
  op.mask_per_row = allowed && allowed->dim() == 2;
  op.excluded = excluded ? mutable_data<uint64_t>(*excluded) : nullptr;
  op.stats = mutable_data<cuda::LogitStats<float>>(stats);
  op.log_times = mutable_data<double>(log_times);
  op.taken = mutable_data<uint64_t>(taken);
  op.values = mutable_data<float>(draws.values);
  op.indices = mutable_data<int64_t>(draws.indices);
  op.logsumexp = mutable_data<float>(draws.logsumexp);
  op.drawn_logits = log_prob ? mutable_data<float>(drawn_logits) : nullptr;
  op.log_prob = log_prob ? mutable_data<float>(draws.log_prob) : nullptr;
  STD_CUDA_CHECK(cuda::launch_linear_gumbel_topk(current_stream(hidden), op));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_gumbel_topk(const Tensor& hidden, const Tensor& weight,
                                                              const std::optional<Tensor>& bias, int64_t k,
                                                              const Tensor& seed, const Tensor& rows, int64_t step,
                                                              const std::optional<Tensor>& exclude,
                                                              const std::optional<Tensor>& mask, bool log_prob) {
  check_linear_gumbel_topk(hidden, weight, bias, k, seed, rows, step, exclude, mask, log_prob);
  check_devices({"hidden", hidden},
                {{"weight", weight}, {"bias", bias}, {"rows", rows}, {"exclude", exclude}, {"mask", mask}});
  check_seed_device(seed, hidden);
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  const int64_t count = hidden.size(0);
  Draws draws{torch::stable::new_empty(hidden, {count, k}, ScalarType::Float),
              torch::stable::new_empty(hidden, {count, k}, ScalarType::Long),
              torch::stable::new_empty(hidden, {count}, ScalarType::Float),
              torch::stable::new_empty(hidden, {log_prob ? count : 0}, ScalarType::Float)};
  if (hidden.scalar_type() == ScalarType::Float) {
    sample<float>(hidden, weight, bias, k, seed, rows, step, exclude, mask, log_prob, draws);
  } else {
    sample<BFloat16>(hidden, weight, bias, k, seed, rows, step, exclude, mask, log_prob, draws);
  }
  return {draws.values, draws.indices, draws.logsumexp, draws.log_prob};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CUDA, m) { m.impl("linear_gumbel_topk", TORCH_BOX(&linear_gumbel_topk)); }

}  // namespace irecgan
