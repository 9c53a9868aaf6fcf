// Argument checks of the ops: one function per op, called by every device's kernel and by the `check_*` ops that the
// reference implementations use. All throw std::runtime_error with "argument must rule, got value".
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace irecgan {

using torch::stable::Tensor;

[[noreturn]] void fail(const std::string& message);

void check_gumbel_topk(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows, int64_t step);

void check_linear_gumbel_topk(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t k,
                              const Tensor& seed, const Tensor& rows, int64_t step,
                              const std::optional<Tensor>& exclude, const std::optional<Tensor>& mask, bool log_prob);

// catalogue: the tensors of irecgan_ext.catalogue.CatalogueIndex, in the order of csrc/torch/catalogue_sample.cpp.
void check_catalogue_sample(const Tensor& hidden, const std::vector<Tensor>& catalogue, int64_t k, const Tensor& seed,
                            const Tensor& rows, int64_t step, const std::optional<Tensor>& exclude, bool logsumexp);

void check_linear_log_prob(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Tensor& targets);

// What the backward op is given besides: grad and log_sum_exp [R].
void check_linear_log_prob_rows(const Tensor& hidden, const Tensor& grad, const Tensor& log_sum_exp);

struct RolloutSizes {
  int64_t items;       // C
  int64_t layers;      // L
  int64_t states;      // S
  int64_t rows;        // R
  int64_t components;  // Z
};

RolloutSizes check_rollout(const std::vector<Tensor>& user, const std::vector<Tensor>& agent,
                           const std::vector<Tensor>& discriminator, const Tensor& user_state,
                           const Tensor& agent_state, const Tensor& discriminator_state, const Tensor& state_index,
                           const Tensor& symbols, const Tensor& steps, const Tensor& rows, const Tensor& score_sums,
                           const Tensor& seed, const std::string& cell, const std::string& reward, int64_t slate_size,
                           int64_t completions, int64_t max_steps);

}  // namespace irecgan
