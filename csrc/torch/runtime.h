// Threads and matrix products of the running torch, for the CPU ops.
#pragma once

#include "../cpu/runtime.h"

namespace irecgan {

const cpu::Runtime& torch_runtime();

}  // namespace irecgan
