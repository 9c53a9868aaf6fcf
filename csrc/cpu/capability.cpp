// Chooses the instruction set once, at first use.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace irecgan::cpu {

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

namespace {

struct Candidate {
  const Kernels* table;
  bool supported;
};

const Kernels& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const Candidate candidates[] = {
      {&kernels_avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")},
      {&kernels_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {&kernels_baseline, true},
  };
#else
  const Candidate candidates[] = {{&kernels_baseline, true}};
#endif
  const char* wanted = std::getenv("IRECGAN_CPU_CAPABILITY");
  std::string names;
  for (const Candidate& candidate : candidates) {
    if (!candidate.supported) continue;
    if (wanted == nullptr || *wanted == '\0' || std::string(wanted) == candidate.table->name) return *candidate.table;
    names += names.empty() ? "" : ", ";
    names += candidate.table->name;
  }
  throw std::runtime_error("IRECGAN_CPU_CAPABILITY must be one of " + names + " on this processor, got " + wanted);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace irecgan::cpu
