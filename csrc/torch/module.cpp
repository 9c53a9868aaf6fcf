// The _C module: importing it registers the schemas and the CPU kernels with torch.
#include <pybind11/pybind11.h>

#include <string>

#include "../cpu/kernels.h"

#define IRECGAN_STRING(x) #x
#define IRECGAN_VALUE(x) IRECGAN_STRING(x)

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = IRECGAN_VALUE(IRECGAN_VERSION);
  info["commit"] = IRECGAN_COMMIT;
  info["compiler"] = IRECGAN_COMPILER;
  info["flags"] = IRECGAN_FLAGS;
  info["cpu_capability"] = irecgan::cpu::kernels().name;
  info["cuda"] = IRECGAN_CUDA;
  info["torch_built_with"] = IRECGAN_TORCH;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of irecgan_ext. Use irecgan_ext.ops.";
  m.attr("SCHEMA") =
      4;  // of the ops; checked by irecgan_ext/ops.py, since a checkout may meet an older installed module
  m.def("build_info", &build_info);
}
