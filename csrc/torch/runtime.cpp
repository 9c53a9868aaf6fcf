#include "runtime.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>

#include "../cpu/kernels.h"

namespace irecgan {
namespace {

using torch::stable::Tensor;

void parallel_for(int64_t n, int64_t grain, const cpu::RangeFunction& f) {
  if (n <= 0) return;
  if (n <= grain) {
    f(0, n);
    return;
  }
  torch::stable::parallel_for(0, n, grain, f);
}

// The generated C shim is what ahead-of-time compiled models call; it is kept stable in practice, not promised to be.
// A view of caller-owned float32 memory. Dispatching through torch's own addmm keeps its BLAS and its thread pool.
Tensor view(const float* data, int64_t dims, const int64_t* sizes, const int64_t* strides) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(const_cast<float*>(data), dims, sizes, strides, 0,
                                                                   aoti_torch_dtype_float32(),
                                                                   aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

Tensor matrix(const float* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  const int64_t sizes[] = {rows, columns};
  const int64_t strides[] = {row_stride, column_stride};
  return view(data, 2, sizes, strides);
}

void linear(float* out, const float* a, const float* weight, const float* bias, int64_t rows, int64_t m, int64_t n) {
  if (rows == 0) return;
  const Tensor result = matrix(out, rows, n, n, 1);
  const int64_t one = 1;
  const Tensor start = bias == nullptr ? result : view(bias, 1, &n, &one);
  const Tensor input = matrix(a, rows, m, m, 1);
  const Tensor transposed = matrix(weight, m, n, 1, m);
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(result.get(), start.get(), input.get(), transposed.get(), 1.0, 1.0));
}

Tensor matrix(const cpu::Matrix& m) { return matrix(m.data, m.rows, m.columns, m.row_stride, m.column_stride); }

void product(float* out, int64_t out_stride, const cpu::Matrix& a, const cpu::Matrix& b, bool accumulate) {
  const Tensor result = matrix(out, a.rows, b.columns, out_stride, 1);
  const Tensor left = matrix(a);
  const Tensor right = matrix(b);
  STABLE_TORCH_ERROR_CODE_CHECK(
      accumulate ? aoti_torch_cpu_addmm_out(result.get(), result.get(), left.get(), right.get(), 1.0, 1.0)
                 : aoti_torch_cpu_mm_out(result.get(), left.get(), right.get()));
}

}  // namespace

const cpu::Runtime& torch_runtime() {
  cpu::kernels();  // throws on a bad IRECGAN_CPU_CAPABILITY; inside a parallel loop the message would be lost
  static const cpu::Runtime runtime{parallel_for, linear, product};
  return runtime;
}

}  // namespace irecgan
