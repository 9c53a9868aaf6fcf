// irecgan_ext::linear_log_prob and its backward op on the CPU.
#include "../cpu/linear_log_prob.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "checks.h"
#include "runtime.h"
#include "tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;
using OptionalTensor = std::optional<Tensor>;

// The rows that take part, copied together where not all do: what a PAD row holds, NaN included, must reach nothing.
struct Problem {
  Problem(const Tensor& hidden_in, const Tensor& weight_in, const OptionalTensor& bias_in, const Tensor& targets_in,
          const float* grad)
      : hidden(dense(hidden_in)), weight(dense(weight_in)) {
    if (bias_in.has_value()) bias = dense(*bias_in);
    const Tensor all_targets = dense(targets_in);
    const int64_t* target = all_targets.const_data_ptr<int64_t>();
    const int64_t count = hidden.size(0);
    for (int64_t r = 0; r < count; ++r) {
      if (target[r] < 0 || (grad != nullptr && grad[r] == 0.0f)) continue;  // a gradient of NaN takes part
      kept.push_back(r);
      targets.push_back(target[r]);
    }
    if (static_cast<int64_t>(kept.size()) < count) hidden = gather(hidden);
  }

  Tensor gather(const Tensor& rows) const {
    const auto width = static_cast<size_t>(rows.size(1));
    Tensor out = torch::stable::new_empty(rows, {static_cast<int64_t>(kept.size()), rows.size(1)});
    const float* from = rows.const_data_ptr<float>();
    float* to = out.mutable_data_ptr<float>();
    for (size_t i = 0; i < kept.size(); ++i)
      std::memcpy(to + i * width, from + static_cast<size_t>(kept[i]) * width, width * sizeof(float));
    return out;
  }

  template <typename T>
  std::vector<T> gather(const T* values) const {
    std::vector<T> out;
    for (const int64_t r : kept) out.push_back(values[r]);
    return out;
  }

  cpu::LinearLogProb view() const {
    return {hidden.const_data_ptr<float>(),
            weight.const_data_ptr<float>(),
            bias.has_value() ? bias->const_data_ptr<float>() : nullptr,
            targets.data(),
            hidden.size(0),
            weight.size(0),
            hidden.size(1)};
  }

  Tensor hidden;  // [kept, H]
  Tensor weight;
  OptionalTensor bias;
  std::vector<int64_t> kept;
  std::vector<int64_t> targets;
};

std::tuple<Tensor, Tensor> linear_log_prob(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                                           const Tensor& targets) {
  check_linear_log_prob(hidden, weight, bias, targets);
  const Problem problem(hidden, weight, bias, targets, nullptr);
  std::vector<float> log_prob(problem.kept.size());
  std::vector<double> log_sum_exp(problem.kept.size());
  cpu::linear_log_prob(torch_runtime(), problem.view(), log_prob.data(), log_sum_exp.data());
  const std::vector<int64_t> shape{hidden.size(0)};
  Tensor all_log_prob = torch::stable::new_zeros(hidden, shape);
  Tensor all_log_sum_exp = torch::stable::new_zeros(hidden, shape, ScalarType::Double);
  for (size_t i = 0; i < problem.kept.size(); ++i) {
    const int64_t r = problem.kept[i];
    if (!std::isfinite(log_sum_exp[i]))
      fail("hidden[" + std::to_string(r) + "] and weight must give finite logits, got NaN, +inf or only -inf");
    all_log_prob.mutable_data_ptr<float>()[r] = log_prob[i];
    all_log_sum_exp.mutable_data_ptr<double>()[r] = log_sum_exp[i];
  }
  return {all_log_prob, all_log_sum_exp};
}

Tensor output(bool wanted, const Tensor& like) {
  return wanted ? torch::stable::empty_like(like) : torch::stable::new_empty(like, {0});
}

float* data_if(bool wanted, Tensor& t) { return wanted ? t.mutable_data_ptr<float>() : nullptr; }

std::tuple<Tensor, Tensor, Tensor> linear_log_prob_backward(const Tensor& grad, const Tensor& hidden,
                                                            const Tensor& weight, const OptionalTensor& bias,
                                                            const Tensor& targets, const Tensor& log_sum_exp,
                                                            bool needs_hidden, bool needs_weight, bool needs_bias) {
  check_linear_log_prob(hidden, weight, bias, targets);
  check_linear_log_prob_rows(hidden, grad, log_sum_exp);
  const Tensor all_grads = dense(grad);
  const Tensor all_sums = dense(log_sum_exp);
  const Problem problem(hidden, weight, bias, targets, all_grads.const_data_ptr<float>());
  Tensor hidden_grad = output(needs_hidden, problem.hidden);
  Tensor weight_grad = output(needs_weight, problem.weight);
  Tensor bias_grad = needs_bias ? torch::stable::new_empty(weight, {weight.size(0)}) : output(false, weight);
  const std::vector<float> grads = problem.gather(all_grads.const_data_ptr<float>());
  const std::vector<double> sums = problem.gather(all_sums.const_data_ptr<double>());
  if (problem.kept.empty()) {
    torch::stable::zero_(weight_grad);
    torch::stable::zero_(bias_grad);
  } else {
    cpu::linear_log_prob_backward(torch_runtime(), problem.view(), grads.data(), sums.data(),
                                  data_if(needs_hidden, hidden_grad), data_if(needs_weight, weight_grad),
                                  data_if(needs_bias, bias_grad));
  }
  if (!needs_hidden || static_cast<int64_t>(problem.kept.size()) == hidden.size(0))
    return {hidden_grad, weight_grad, bias_grad};
  Tensor all_hidden_grad = torch::stable::new_zeros(hidden, {hidden.size(0), hidden.size(1)});
  const auto width = static_cast<size_t>(hidden.size(1));
  for (size_t i = 0; i < problem.kept.size(); ++i) {
    std::memcpy(all_hidden_grad.mutable_data_ptr<float>() + static_cast<size_t>(problem.kept[i]) * width,
                hidden_grad.const_data_ptr<float>() + i * width, width * sizeof(float));
  }
  return {all_hidden_grad, weight_grad, bias_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(irecgan_ext, m) {
  m.def("linear_log_prob(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets) -> (Tensor, Tensor)");
  m.def(
      "linear_log_prob_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor "
      "log_sum_exp, bool needs_hidden, bool needs_weight, bool needs_bias) -> (Tensor, Tensor, Tensor)");
  m.def("check_linear_log_prob(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CPU, m) {
  m.impl("linear_log_prob", TORCH_BOX(&linear_log_prob));
  m.impl("linear_log_prob_backward", TORCH_BOX(&linear_log_prob_backward));
}

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CompositeExplicitAutograd, m) {
  m.impl("check_linear_log_prob", TORCH_BOX(&check_linear_log_prob));
}

}  // namespace irecgan
