// A program for AddressSanitizer: the CUDA rollout on exactly sized buffers, both ways to play it.
#include <cstdio>
#include <random>

#include "rollout.cpp"

namespace {

using irecgan::cuda::kBos;

struct Case {
  bool lstm, binary, small;
  int64_t layers, items, slate, completions;
};

// Parameters of a case in exactly sized blocks of memory, in the order that rollout() reads them.
class Parameters {
 public:
  const float* const* data() const { return pointers_.data(); }
  void add(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = normal_(engine_);
    blocks_.push_back(std::move(values));
    pointers_.push_back(blocks_.back().data());
  }

 private:
  std::mt19937 engine_{1};
  std::normal_distribution<float> normal_{0.0f, 0.5f};
  std::vector<std::vector<float>> blocks_;
  std::vector<const float*> pointers_;
};

const char* play(const Case& c, int reversed) {
  constexpr int64_t kRows = 5, kCap = 4, kStates = 2;
  const int64_t gates = c.lstm ? 4 : 3, components = c.lstm ? 2 : 1;
  const int64_t width[] = {3, 5, 4}, hidden[] = {6, 33, 7};
  Parameters parameters;
  for (int m = 0; m < 3; ++m) {
    parameters.add((c.items + 2) * width[m]);
    for (int64_t l = 0; l < c.layers; ++l) {
      parameters.add(gates * hidden[m] * (l == 0 ? width[m] : hidden[m]));
      parameters.add(gates * hidden[m] * hidden[m]);
      parameters.add(gates * hidden[m]);
      parameters.add(gates * hidden[m]);
    }
    const int64_t out = m == 1 ? c.items : width[m];
    parameters.add(out * hidden[m]);
    parameters.add(out);
    if (c.binary && m != 1) {
      parameters.add(m == 0 ? out * hidden[m] : 1);
      parameters.add(m == 0 ? out : 1);
    }
    parameters.add(components * c.layers * kStates * hidden[m]);
  }
  parameters.add(kRows);
  const std::vector<int64_t> index{0, 1, 1, 0, 1}, symbols{kBos, 0, c.items - 1, kBos, 0}, steps{0, 1, 2, 3, 0},
      ids{0, 7, 9, 1, 3}, seed{5};
  const int64_t* rows[] = {index.data(), symbols.data(), steps.data(), ids.data(), seed.data()};
  const int64_t sizes[] = {3,    c.binary, c.lstm,   c.layers,  c.items,  kStates,   kRows,    c.slate,  c.completions,
                           kCap, 1,        width[0], hidden[0], width[1], hidden[1], width[2], hidden[2]};
  const int64_t device[] = {2, c.small ? 227 * 1024 : 0, 100'000};
  std::vector<int64_t> slates(kRows * kCap * static_cast<size_t>(c.slate)), clicks(kRows * kCap), lengths(kRows),
      work(4);
  std::vector<float> rewards(kRows * kCap), scores(kRows), q(kRows * kCap);
  const std::unique_ptr<bool[]> censored(new bool[kRows]());
  return rollout(reversed, sizes, device, parameters.data(), rows, slates.data(), clicks.data(), rewards.data(),
                 lengths.data(), censored.get(), scores.data(), q.data(), work.data());
}

}  // namespace

int main() {
  const Case cases[] = {{false, false, true, 1, 13, 4, 3},
                        {true, true, true, 2, 70, 9, 2},
                        {false, true, false, 2, 70, 9, 2},
                        {true, false, false, 1, 1100, 2, 0},
                        {false, false, true, 1, 1, 1, 1}};
  for (const Case& c : cases) {
    for (const int reversed : {0, 1}) {
      if (const char* error = play(c, reversed)) {
        std::puts(error);
        return 1;
      }
    }
  }
  std::puts("no errors");
}
