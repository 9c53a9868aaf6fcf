// irecgan_ext::gumbel_topk on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../cpu/race_buffers.h"
#include "../math/race.h"
#include "checks.h"
#include "faults.h"
#include "runtime.h"
#include "tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

template <typename T>
struct Functions;

template <>
struct Functions<float> {
  static constexpr auto stats = &cpu::Kernels::rough_stats_f32;
  static constexpr auto race = &cpu::Kernels::race_f32;
};

template <>
struct Functions<double> {
  static constexpr auto stats = &cpu::Kernels::rough_stats_f64;
  static constexpr auto race = &cpu::Kernels::race_f64;
};

// A call's sizes and what keys its noise.
struct Call {
  int64_t items;
  int64_t k;
  uint64_t seed;
  const int64_t* rows;  // [R]
  int64_t step;

  Stream stream(int64_t row) const { return Stream{seed, rows[row], static_cast<uint32_t>(step), 0, 0}; }
};

// Work space of one thread.
template <typename T>
class RowSampler {
 public:
  explicit RowSampler(const Call& call)
      : call_(call),
        shift_(static_cast<size_t>(block_count(call.items))),
        sum_(shift_.size()),
        buffers_(call.items, call.k) {}

  cpu::BlockStats<T> stats() { return {shift_.data(), sum_.data()}; }

  // Draws of row `row`, whose block statistics are `stats`.
  void race(int64_t row, const T* logits, cpu::BlockStats<T> stats, T* values, int64_t* indices, cpu::RowFault& fault) {
    const int64_t drawn = (cpu::kernels().*Functions<T>::race)(logits, call_.items, call_.k, stats, call_.stream(row),
                                                               buffers_.scratch(), values, indices);
    if (drawn != call_.k) fault.note(row, drawn);
  }

  void sample(int64_t row, const T* logits, T* values, int64_t* indices, cpu::RowFault& fault) {
    (cpu::kernels().*Functions<T>::stats)(logits, call_.items, stats());
    race(row, logits, stats(), values, indices, fault);
  }

 private:
  const Call& call_;
  std::vector<T> shift_, sum_;
  cpu::RaceBuffers buffers_;
};

// Rows begin..end - 1, of one block each.
void sample_small_rows(const Call& call, const float* logits, int64_t begin, int64_t end, float* values,
                       int64_t* indices, cpu::RowFault& fault) {
  RowSampler<float> sampler(call);
  for (int64_t first = begin; first < end; first += cpu::kSmallRows) {
    const float* from[cpu::kSmallRows];
    float* to[cpu::kSmallRows];
    int64_t* to_index[cpu::kSmallRows];
    Stream streams[cpu::kSmallRows];
    bool plain[cpu::kSmallRows];
    const int64_t count = std::min(cpu::kSmallRows, end - first);
    for (int64_t r = 0; r < count; ++r) {
      from[r] = logits + (first + r) * call.items;
      to[r] = values + (first + r) * call.k;
      to_index[r] = indices + (first + r) * call.k;
      streams[r] = call.stream(first + r);
    }
    cpu::kernels().small_races(from, count, call.items, call.k, streams, to, to_index, plain);
    for (int64_t r = 0; r < count; ++r) {
      if (!plain[r]) sampler.sample(first + r, from[r], to[r], to_index[r], fault);
    }
  }
}

// Few rows: the threads share each row's blocks, in whole chunks of items.
template <typename T>
void sample_wide_row(const Call& call, const T* logits, int64_t row, T* values, int64_t* indices,
                     cpu::RowFault& fault) {
  constexpr int64_t kPart = 1 << 14;
  RowSampler<T> sampler(call);
  const cpu::BlockStats<T> stats = sampler.stats();
  torch_runtime().parallel_for((call.items + kPart - 1) / kPart, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kPart;
    const int64_t last = std::min(call.items, end * kPart);
    (cpu::kernels().*Functions<T>::stats)(logits + first, last - first,
                                          {stats.shift + first / kBlock, stats.sum + first / kBlock});
  });
  sampler.race(row, logits, stats, values, indices, fault);
}

// logits [R, C] contiguous; values, indices [R, k].
template <typename T>
void sample_rows(const Call& call, const T* logits, int64_t count, T* values, int64_t* indices, cpu::RowFault& fault) {
  constexpr int64_t kWideRows = 8;  // fewer rows than this do not keep many threads busy
  constexpr int64_t kWideItems = 1 << 15;
  if (count < kWideRows && call.items >= kWideItems) {
    for (int64_t r = 0; r < count; ++r) {
      sample_wide_row(call, logits + r * call.items, r, values + r * call.k, indices + r * call.k, fault);
    }
    return;
  }
  const int64_t grain = 1 + 16384 / call.items;
  torch_runtime().parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    if constexpr (std::is_same_v<T, float>) {
      if (call.items <= kBlock) return sample_small_rows(call, logits, begin, end, values, indices, fault);
    }
    RowSampler<T> sampler(call);
    for (int64_t r = begin; r < end; ++r) {
      sampler.sample(r, logits + r * call.items, values + r * call.k, indices + r * call.k, fault);
    }
  });
}

template <typename T>
void sample(const Tensor& logits, int64_t k, const Tensor& seed, const Tensor& rows, int64_t step, Tensor& values,
            Tensor& indices) {
  const Tensor input = dense(logits);
  const Tensor row_ids = dense(rows);
  cpu::RowFault fault;
  const Call call{input.size(1), k, static_cast<uint64_t>(*seed.const_data_ptr<int64_t>()),
                  row_ids.const_data_ptr<int64_t>(), step};
  sample_rows(call, input.const_data_ptr<T>(), input.size(0), values.mutable_data_ptr<T>(),
              indices.mutable_data_ptr<int64_t>(), fault);
  report(fault, "logits", k);
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
