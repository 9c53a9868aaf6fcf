// A program for AddressSanitizer: the kernels of the linear ops on exactly sized buffers. To be linked with
// csrc/cuda/linear_stats.cu.
#include <array>
#include <cstdio>
#include <memory>

#include "linear_gumbel_topk.cpp"
#include "linear_log_prob.cpp"

namespace {

template <typename T>
std::vector<T> ones(int64_t size) {
  return std::vector<T>(static_cast<size_t>(size), irecgan::from_float<T>(1));
}

// Null, or what went wrong.
template <typename T>
const char* run_all(int64_t rows, int64_t items, int64_t width, bool reversed) {
  const std::vector<T> hidden = ones<T>(rows * width), weight = ones<T>(items * width), bias = ones<T>(items);
  const LinearLayer<T> layer{hidden.data(), weight.data(), bias.data(), rows, items, width};
  const std::vector<int64_t> ids(static_cast<size_t>(rows), 3), targets(static_cast<size_t>(rows), items - 1);
  const int64_t seed = 5, k = items < 5 ? items : 5;
  const std::vector<int64_t> exclude(static_cast<size_t>(rows), items);
  const auto mask = std::make_unique<bool[]>(static_cast<size_t>(items));
  for (int64_t i = 0; i < items; ++i) mask[static_cast<size_t>(i)] = true;
  std::vector<float> values(static_cast<size_t>(rows * k)), log_prob(ids.size()), grad = ones<float>(rows);
  std::vector<int64_t> indices(values.size());
  std::vector<double> log_sum_exp(ids.size());
  const LinearDraws draws{
      ids.data(),      &seed,          0, k, exclude.data(), 1, mask.get(), 0, values.data(), indices.data(),
      log_prob.data(), log_prob.data()};
  if (const char* error = run_linear<T>(reversed, layer, draws)) return error;
  for (const int64_t i : indices)
    if (i < 0 || i >= items) return "an item outside the catalogue";
  if (const char* error = run_forward<T>(reversed, layer, targets.data(), log_prob.data(), log_sum_exp.data()))
    return error;
  std::vector<T> hidden_grad(hidden.size()), weight_grad(weight.size()), bias_grad(bias.size());
  for (const int64_t panel : {0, 128}) {
    const Gradients<T> gradients{targets.data(), grad.data(),        log_sum_exp.data(), panel,
                                 panel,          hidden_grad.data(), weight_grad.data(), bias_grad.data()};
    if (const char* error = run_backward<T>(reversed, layer, gradients)) return error;
  }
  return nullptr;
}

}  // namespace

int main() {
  for (const auto [rows, items, width] : {std::array<int64_t, 3>{1, 1, 1}, {3, 65, 17}, {129, 65, 8}}) {
    for (const char* error :
         {run_all<float>(rows, items, width, false), run_all<irecgan::BFloat16>(rows, items, width, true)}) {
      if (error == nullptr) continue;
      std::puts(error);
      return 1;
    }
  }
  std::puts("no errors");
}
