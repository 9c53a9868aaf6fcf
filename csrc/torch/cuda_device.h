// What the CUDA ops share: devices of tensors, the current stream.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "checks.h"

namespace irecgan {

inline cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

inline std::string device_name(const Tensor& t) {
  return t.is_cpu() ? "cpu" : "cuda:" + std::to_string(t.get_device_index());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() && b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline void require_device(const Tensor& t, const Tensor& like, const std::string& name) {
  if (!same_device(t, like)) fail(name + " must be on " + device_name(like) + ", got " + device_name(t));
}

// A seed may be on the CPU, where it is read at once, or on the device, where the kernels read it.
inline void require_seed_device(const Tensor& seed, const Tensor& like) {
  if (!seed.is_cpu() && !same_device(seed, like))
    fail("seed must be on cpu or " + device_name(like) + ", got " + device_name(seed));
}

inline const int64_t* device_seed(const Tensor& seed) {
  return seed.is_cpu() ? nullptr : seed.const_data_ptr<int64_t>();
}
inline int64_t host_seed(const Tensor& seed) { return seed.is_cpu() ? *seed.const_data_ptr<int64_t>() : 0; }

}  // namespace irecgan
