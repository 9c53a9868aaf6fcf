// What the CUDA ops share: devices, the current stream, what keys the noise, and pointers by element type.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "../cuda/noise_key.h"
#include "checks.h"
#include "tensors.h"

namespace irecgan {

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline std::string device_name(const Tensor& t) {
  return t.is_cpu() ? "cpu" : "cuda:" + std::to_string(t.get_device_index());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() && b.is_cuda() && a.get_device_index() == b.get_device_index();
}

struct NamedTensor {
  const char* name;
  const Tensor* tensor;  // null: not given

  NamedTensor(const char* n, const Tensor& t) : name(n), tensor(&t) {}
  NamedTensor(const char* n, const std::optional<Tensor>& t) : name(n), tensor(t ? &*t : nullptr) {}
};

// The first argument decides on the device; any argument there brings the call here.
inline void check_devices(const NamedTensor& first, std::initializer_list<NamedTensor> others) {
  if (!first.tensor->is_cuda())
    fail(std::string(first.name) + " must be on a CUDA device, as another argument is, got cpu");
  for (const NamedTensor& other : others) {
    if (other.tensor != nullptr && !same_device(*other.tensor, *first.tensor))
      fail(std::string(other.name) + " must be on " + device_name(*first.tensor) + ", got " +
           device_name(*other.tensor));
  }
}

inline void check_seed_device(const Tensor& seed, const Tensor& like) {
  if (!seed.is_cpu() && !same_device(seed, like))
    fail("seed must be on cpu or " + device_name(like) + ", got " + device_name(seed));
}

// rows [R] contiguous. A seed on the device is read there, when the kernels run.
inline cuda::NoiseKey noise_key(const Tensor& rows, const Tensor& seed, int64_t step) {
  const auto* data = seed.const_data_ptr<int64_t>();
  return {rows.const_data_ptr<int64_t>(), seed.is_cpu() ? nullptr : data, seed.is_cpu() ? *data : 0, step};
}

template <typename T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
const T* data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}

template <typename T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline std::optional<Tensor> dense(const std::optional<Tensor>& t) {
  return t ? std::optional<Tensor>(dense(*t)) : std::nullopt;
}

}  // namespace irecgan
