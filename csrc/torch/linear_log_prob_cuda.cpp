// irecgan_ext::linear_log_prob and its backward op on CUDA devices. The schemas are _C's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <type_traits>

#include "../cuda/linear_log_prob.h"
#include "../math/race.h"
#include "cuda_tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;
using OptionalTensor = std::optional<Tensor>;

// The layer as contiguous memory that lives as long as this.
template <typename T>
struct DenseLayer {
  DenseLayer(const Tensor& h, const Tensor& w, const OptionalTensor& b)
      : hidden(dense(h)), weight(dense(w)), bias(dense(b)) {}
  cuda::LinearLayer<T> view() const {
    return {data<T>(hidden), data<T>(weight), data<T>(bias), hidden.size(0), weight.size(0), hidden.size(1)};
  }
  Tensor hidden, weight;
  OptionalTensor bias;
};

void check(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& targets) {
  check_linear_log_prob(hidden, weight, bias, targets);
  check_devices({"hidden", hidden}, {{"weight", weight}, {"bias", bias}, {"targets", targets}});
}

template <typename T>
void forward(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& targets,
             Tensor& log_prob, Tensor& log_sum_exp) {
  const DenseLayer<T> layer(hidden, weight, bias);
  const Tensor chosen = dense(targets);
  // Torch's allocator orders their reuse after the kernels on this stream.
  Tensor target_logits = torch::stable::empty_like(log_prob);
  Tensor stats = torch::stable::new_empty(hidden, {hidden.size(0), block_count(weight.size(0))}, ScalarType::Double);
  STD_CUDA_CHECK(cuda::launch_linear_log_prob(
      current_stream(hidden),
      cuda::LinearLogProb<T>{layer.view(), data<int64_t>(chosen), mutable_data<float>(target_logits),
                             mutable_data<cuda::LogitStats<float>>(stats), mutable_data<float>(log_prob),
                             mutable_data<double>(log_sum_exp)}));
}

std::tuple<Tensor, Tensor> linear_log_prob(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                                           const Tensor& targets) {
  check(hidden, weight, bias, targets);
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  Tensor log_prob = torch::stable::new_empty(hidden, {hidden.size(0)}, ScalarType::Float);
  Tensor log_sum_exp = torch::stable::new_empty(hidden, {hidden.size(0)}, ScalarType::Double);
  if (hidden.scalar_type() == ScalarType::Float) {
    forward<float>(hidden, weight, bias, targets, log_prob, log_sum_exp);
  } else {
    forward<BFloat16>(hidden, weight, bias, targets, log_prob, log_sum_exp);
  }
  return {log_prob, log_sum_exp};
}

// hidden's, weight's and bias's; without elements where not wanted.
struct Gradients {
  Tensor hidden, weight, bias;
};

template <typename T>
void backward(const Tensor& grad, const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
              const Tensor& targets, const Tensor& log_sum_exp, const bool (&needs)[3], Gradients& out) {
  const DenseLayer<T> layer(hidden, weight, bias);
  const Tensor chosen = dense(targets), incoming = dense(grad), sums = dense(log_sum_exp);
  const cuda::LinearLayer<T> view = layer.view();
  const cuda::PanelSizes panel = cuda::panel_sizes(view.rows, view.items);
  const auto scratch = [&](bool wanted, int64_t rows, int64_t columns, bool wide) {
    return torch::stable::new_empty(hidden, {wanted ? rows * columns : 0},
                                    wide ? ScalarType::Float : hidden.scalar_type());
  };
  const bool sums_apart = !std::is_same_v<T, float>;  // float gradients are their own sums
  Tensor scales = scratch(true, view.rows, 1, true);
  Tensor gradients = scratch(true, panel.rows, panel.items, false);
  Tensor transposed = scratch(true, panel.rows, panel.items, false);
  Tensor panel_weight = scratch(needs[0], view.width, panel.items, false);
  Tensor panel_hidden = scratch(needs[1], view.width, panel.rows, false);
  Tensor column_sums = scratch(needs[2], panel.rows / 32, panel.items, true);
  Tensor hidden_partial = scratch(sums_apart && needs[0] && panel.items < view.items, view.rows, view.width, true);
  Tensor weight_partial = scratch(sums_apart && needs[1] && panel.rows < view.rows, panel.items, view.width, true);
  Tensor bias_partial = scratch(sums_apart && needs[2] && panel.rows < view.rows, panel.items, 1, true);

  cuda::LinearLogProbBackward<T> op{};
  op.layer = view;
  op.targets = data<int64_t>(chosen);
  op.grad = data<float>(incoming);
  op.log_sum_exp = data<double>(sums);
  op.panel = panel;
  op.scales = mutable_data<float>(scales);
  op.gradients = mutable_data<T>(gradients);
  op.transposed = mutable_data<T>(transposed);
  op.panel_weight = mutable_data<T>(panel_weight);
  op.panel_hidden = mutable_data<T>(panel_hidden);
  op.column_sums = needs[2] ? mutable_data<float>(column_sums) : nullptr;
  op.hidden_partial = mutable_data<float>(hidden_partial);
  op.weight_partial = mutable_data<float>(weight_partial);
  op.bias_partial = mutable_data<float>(bias_partial);
  op.hidden_grad = needs[0] ? mutable_data<T>(out.hidden) : nullptr;
  op.weight_grad = needs[1] ? mutable_data<T>(out.weight) : nullptr;
  op.bias_grad = needs[2] ? mutable_data<T>(out.bias) : nullptr;
  STD_CUDA_CHECK(cuda::launch_linear_log_prob_backward(current_stream(hidden), op));
}

std::tuple<Tensor, Tensor, Tensor> linear_log_prob_backward(const Tensor& grad, const Tensor& hidden,
                                                            const Tensor& weight, const OptionalTensor& bias,
                                                            const Tensor& targets, const Tensor& log_sum_exp,
                                                            bool needs_hidden, bool needs_weight, bool needs_bias) {
  check(hidden, weight, bias, targets);
  check_linear_log_prob_rows(hidden, grad, log_sum_exp);
  check_devices({"hidden", hidden}, {{"grad", grad}, {"log_sum_exp", log_sum_exp}});
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  const auto output = [](bool wanted, const Tensor& like, int64_t rows, int64_t columns) {
    return wanted ? torch::stable::new_empty(like, {rows, columns}) : torch::stable::new_empty(like, {0});
  };
  Gradients out{output(needs_hidden, hidden, hidden.size(0), hidden.size(1)),
                output(needs_weight, weight, weight.size(0), weight.size(1)),
                torch::stable::new_empty(weight, {needs_bias ? weight.size(0) : 0})};
  if (hidden.size(0) == 0) {
    torch::stable::zero_(out.weight);
    torch::stable::zero_(out.bias);
    return {out.hidden, out.weight, out.bias};
  }
  const bool needs[] = {needs_hidden, needs_weight, needs_bias};
  if (hidden.scalar_type() == ScalarType::Float) {
    backward<float>(grad, hidden, weight, bias, targets, log_sum_exp, needs, out);
  } else {
    backward<BFloat16>(grad, hidden, weight, bias, targets, log_sum_exp, needs, out);
  }
  return {out.hidden, out.weight, out.bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CUDA, m) {
  m.impl("linear_log_prob", TORCH_BOX(&linear_log_prob));
  m.impl("linear_log_prob_backward", TORCH_BOX(&linear_log_prob_backward));
}

}  // namespace irecgan
