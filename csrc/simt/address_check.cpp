// A program for AddressSanitizer: the CUDA kernels on exactly sized buffers, or, named on the command line, a kernel
// that reads past its shared memory.
#include <cstdio>
#include <cstring>

#include "gumbel_topk.cpp"
#include "self_test.cu"

namespace {

template <typename T>
bool draws_within_bounds(int64_t items, int64_t k, bool reversed) {
  constexpr int64_t kRows = 2;
  const std::vector<T> logits(static_cast<size_t>(kRows * items), T{1});
  const std::vector<int64_t> rows{3, 4};
  const int64_t seed = 5;
  std::vector<T> values(static_cast<size_t>(kRows * k));
  std::vector<int64_t> indices(static_cast<size_t>(kRows * k));
  if (const char* error =
          run<T>(reversed, logits.data(), rows.data(), &seed, 0, 0, kRows, items, k, values.data(), indices.data())) {
    std::puts(error);
    return false;
  }
  for (const int64_t i : indices)
    if (i < 0 || i >= items) return false;
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && std::strcmp(arguments[1], "past_the_end") == 0) {
    const std::vector<int> in(32);
    std::vector<int> out(32);
    run_past_the_end(0, 1, 32, in.data(), out.data());
    return 0;
  }
  for (const bool reversed : {false, true}) {
    for (const int64_t items : {1, 63, 64, 65, 1000, 4099}) {
      for (const int64_t k : {1, 10, 64}) {
        if (k > items) continue;
        if (!draws_within_bounds<float>(items, k, reversed) || !draws_within_bounds<double>(items, k, reversed))
          return 1;
      }
    }
  }
  std::puts("no errors");
}
