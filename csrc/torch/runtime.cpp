#include "runtime.h"

#include <torch/csrc/stable/ops.h>

#include "../cpu/kernels.h"

namespace irecgan {
namespace {

void parallel_for(int64_t n, int64_t grain, const cpu::RangeFunction& f) {
  if (n <= 0) return;
  if (n <= grain) {
    f(0, n);
    return;
  }
  torch::stable::parallel_for(0, n, grain, f);
}

}  // namespace

const cpu::Runtime& torch_runtime() {
  cpu::kernels();  // throws on a bad IRECGAN_CPU_CAPABILITY; inside a parallel loop the message would be lost
  static const cpu::Runtime runtime{parallel_for};
  return runtime;
}

}  // namespace irecgan
