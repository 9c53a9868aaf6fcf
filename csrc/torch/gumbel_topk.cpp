// irecgan_ext::gumbel_topk on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/kernels.h"
#include "../math/race.h"
#include "checks.h"
#include "runtime.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

template <typename T>
struct Functions;

template <>
struct Functions<float> {
  static constexpr auto stats = &cpu::Kernels::block_stats_f32;
  static constexpr auto race = &cpu::Kernels::race_f32;
};

template <>
struct Functions<double> {
  static constexpr auto stats = &cpu::Kernels::block_stats_f64;
  static constexpr auto race = &cpu::Kernels::race_f64;
};

struct RowFault {
  std::atomic<int64_t> row{-1};
  int64_t finite = 0;
};

// logits [R, C] contiguous; values, indices [R, k]; rows [R].
template <typename T>
void sample_rows(const T* logits, int64_t count, int64_t items, int64_t k, uint64_t seed, const int64_t* rows,
                 int64_t step, T* values, int64_t* indices, RowFault& fault) {
  const cpu::Kernels& kernel = cpu::kernels();
  const int64_t blocks = block_count(items);
  const int64_t grain = 1 + 16384 / items;
  torch_runtime().parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> shift(static_cast<size_t>(blocks)), sum(static_cast<size_t>(blocks));
    std::vector<float> bounds(static_cast<size_t>(blocks)), uniforms(static_cast<size_t>(blocks));
    std::vector<float> smallest(static_cast<size_t>(k));
    std::vector<cpu::Arrival> arrivals(static_cast<size_t>(k));
    const cpu::BlockStats<T> stats{shift.data(), sum.data()};
    for (int64_t r = begin; r < end; ++r) {
      const Stream stream{seed, rows[r], static_cast<uint32_t>(step), 0, 0};
      (kernel.*Functions<T>::stats)(logits + r * items, items, stats);
      const int64_t drawn = (kernel.*Functions<T>::race)(
          logits + r * items, items, k, stats, stream,
          {bounds.data(), uniforms.data(), smallest.data(), arrivals.data()}, values + r * k, indices + r * k);
      if (drawn == k) continue;
      int64_t none = -1;
      if (fault.row.compare_exchange_strong(none, r)) fault.finite = drawn;
    }
  });
}

template <typename T>
void sample(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows, int64_t step, Tensor& values,
            Tensor& indices) {
  const Tensor dense = torch::stable::contiguous(logits);
  const Tensor row_ids = torch::stable::contiguous(rows);
  RowFault fault;
  sample_rows(dense.const_data_ptr<T>(), dense.size(0), dense.size(1), k,
              static_cast<uint64_t>(*seed.const_data_ptr<int64_t>()), row_ids.const_data_ptr<int64_t>(), step,
              values.mutable_data_ptr<T>(), indices.mutable_data_ptr<int64_t>(), fault);
  const int64_t row = fault.row.load();
  if (row < 0) return;
  const std::string where = "logits[" + std::to_string(row) + "]";
  if (fault.finite == cpu::kNotANumber) fail(where + " must hold no NaN and no +inf");
  fail(where + " must hold at least k = " + std::to_string(k) + " finite logits, got " + std::to_string(fault.finite));
}

std::tuple<Tensor, Tensor> gumbel_topk(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows,
                                       int64_t step) {
  check_gumbel_topk(logits, k, seed, rows, step);
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

STABLE_TORCH_LIBRARY_FRAGMENT(irecgan_ext, m) {
  m.def("gumbel_topk(Tensor logits, int k, Tensor seed, Tensor rows, int step) -> (Tensor, Tensor)");
  m.def("check_gumbel_topk(Tensor logits, int k, Tensor seed, Tensor rows, int step) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CPU, m) { m.impl("gumbel_topk", TORCH_BOX(&gumbel_topk)); }

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CompositeExplicitAutograd, m) {
  m.impl("check_gumbel_topk", TORCH_BOX(&check_gumbel_topk));
}

}  // namespace irecgan
