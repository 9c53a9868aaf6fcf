// csrc/cuda/gumbel_topk.cu on the host, behind C functions for python_tests/test_simt.py.
#include "../cuda/gumbel_topk.cu"

#include "entry.h"

namespace {

template <typename T>
const char* run(int reversed, const T* logits, const int64_t* rows, const int64_t* seed, int seed_on_host, int64_t step,
                int64_t count, int64_t items, int64_t k, T* values, int64_t* indices) {
  return simt::outcome(reversed, [&] {
    const auto blocks = static_cast<size_t>(count * irecgan::block_count(items));
    // Filled with what would do harm if it were read before it is written.
    std::vector<double> log_times(blocks, -1e300);
    std::vector<uint64_t> taken(blocks, ~uint64_t{0});
    irecgan::cuda::launch_gumbel_topk(
        nullptr, irecgan::cuda::GumbelTopk<T>{logits,
                                              {rows, seed_on_host ? nullptr : seed, seed_on_host ? *seed : 0, step},
                                              count,
                                              items,
                                              k,
                                              log_times.data(),
                                              taken.data(),
                                              values,
                                              indices});
  });
}

}  // namespace

extern "C" {

const char* gumbel_topk_f32(int reversed, const float* logits, const int64_t* rows, const int64_t* seed,
                            int seed_on_host, int64_t step, int64_t count, int64_t items, int64_t k, float* values,
                            int64_t* indices) {
  return run(reversed, logits, rows, seed, seed_on_host, step, count, items, k, values, indices);
}

const char* gumbel_topk_f64(int reversed, const double* logits, const int64_t* rows, const int64_t* seed,
                            int seed_on_host, int64_t step, int64_t count, int64_t items, int64_t k, double* values,
                            int64_t* indices) {
  return run(reversed, logits, rows, seed, seed_on_host, step, count, items, k, values, indices);
}

}  // extern "C"
