// irecgan_ext::gumbel_topk on CUDA devices. The schema is _C's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../cuda/gumbel_topk.h"
#include "../math/race.h"
#include "cuda_tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

template <typename T>
void sample(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows, int64_t step, Tensor& values,
            Tensor& indices) {
  const Tensor input = dense(logits);
  const Tensor row_ids = dense(rows);
  const int64_t blocks = block_count(logits.size(1));
  // Torch's allocator orders their reuse after the kernels on this stream.
  Tensor log_times = torch::stable::new_empty(logits, {logits.size(0), blocks}, ScalarType::Double);
  Tensor taken = torch::stable::new_empty(logits, {logits.size(0), blocks}, ScalarType::Long);

  cuda::GumbelTopk<T> op{};
  op.logits = input.const_data_ptr<T>();
  op.key = noise_key(row_ids, seed, step);
  op.count = input.size(0);
  op.items = input.size(1);
  op.k = k;
  op.log_times = log_times.mutable_data_ptr<double>();
  op.taken = reinterpret_cast<uint64_t*>(taken.mutable_data_ptr<int64_t>());
  op.values = values.mutable_data_ptr<T>();
  op.indices = indices.mutable_data_ptr<int64_t>();
  STD_CUDA_CHECK(cuda::launch_gumbel_topk(current_stream(logits), op));
}

// logits [R, C], seed [] on the CPU or the device, rows [R] -> values, indices [R, k].
std::tuple<Tensor, Tensor> gumbel_topk(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows,
                                       int64_t step) {
  check_gumbel_topk(logits, k, seed, rows, step);
  check_devices({"logits", logits}, {{"rows", rows}});
  check_seed_device(seed, logits);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  Tensor values = torch::stable::new_empty(logits, {logits.size(0), k});
  Tensor indices = torch::stable::new_empty(logits, {logits.size(0), k}, ScalarType::Long);
  if (logits.scalar_type() == ScalarType::Float) {
    sample<float>(logits, k, seed, rows, step, values, indices);
  } else {
    sample<double>(logits, k, seed, rows, step, values, indices);
  }
  return {values, indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CUDA, m) { m.impl("gumbel_topk", TORCH_BOX(&gumbel_topk)); }

}  // namespace irecgan
