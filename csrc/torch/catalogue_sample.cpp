// irecgan_ext::catalogue_sample, on the CPU only.
#include "../cpu/catalogue_sample.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "faults.h"
#include "runtime.h"
#include "tensors.h"

namespace irecgan {
namespace {

using torch::headeronly::ScalarType;

#define IRECGAN_CATALOGUE_SAMPLE_ARGS \
  "(Tensor hidden, Tensor[] catalogue, int k, Tensor seed, Tensor rows, int step, Tensor? exclude, bool logsumexp)"

// catalogue: panels, bias, items, places, centroids, log_weight, radius, spread, scales (weight, bias), and where the
// bounds are made for typical states also centre, metric.
cpu::Catalogue catalogue_of(const std::vector<Tensor>& t) {
  const bool typical = t.size() == 11;
  const float* scales = t[8].const_data_ptr<float>();
  return {t[0].const_data_ptr<float>(),
          t[1].const_data_ptr<float>(),
          t[2].const_data_ptr<int64_t>(),
          t[0].size(0),
          t[0].size(1),
          t[4].const_data_ptr<float>(),
          t[5].const_data_ptr<float>(),
          t[6].const_data_ptr<float>(),
          t[7].const_data_ptr<float>(),
          typical ? t[9].const_data_ptr<float>() : nullptr,
          typical ? t[10].const_data_ptr<double>() : nullptr,
          scales[0],
          scales[1]};
}

// [R, X] places of the excluded items, ascending in each row; what excludes nothing comes last.
std::vector<int64_t> excluded_places(const std::optional<Tensor>& exclude, const Tensor& places) {
  if (!exclude) return {};
  const Tensor list = dense(*exclude);
  const int64_t* data = list.const_data_ptr<int64_t>();
  const int64_t* place = places.const_data_ptr<int64_t>();
  std::vector<int64_t> sorted(data, data + list.numel());
  for (int64_t& item : sorted) {
    item = item < 0 || place[item] < 0 ? std::numeric_limits<int64_t>::max() : place[item];
  }
  const int64_t width = list.size(1);
  for (int64_t r = 0; r < list.size(0); ++r) {
    std::sort(sorted.begin() + r * width, sorted.begin() + (r + 1) * width);
  }
  return sorted;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> catalogue_sample(const Tensor& hidden, const std::vector<Tensor>& catalogue,
                                                            int64_t k, const Tensor& seed, const Tensor& rows,
                                                            int64_t step, const std::optional<Tensor>& exclude,
                                                            bool logsumexp) {
  check_catalogue_sample(hidden, catalogue, k, seed, rows, step, exclude, logsumexp);
  const int64_t count = hidden.size(0);
  Tensor values = torch::stable::new_empty(hidden, {count, k});
  Tensor indices = torch::stable::new_empty(hidden, {count, k}, ScalarType::Long);
  Tensor opened = torch::stable::new_empty(hidden, {count}, ScalarType::Long);
  Tensor total = torch::stable::new_empty(hidden, {logsumexp ? count : 0});
  const Tensor h = dense(hidden), ids = dense(rows);
  const std::vector<int64_t> excluded = excluded_places(exclude, catalogue[3]);
  const int64_t width = exclude ? exclude->size(1) : 0;
  const auto key = static_cast<uint64_t>(*seed.const_data_ptr<int64_t>());
  std::vector<cpu::CatalogueRow> states(static_cast<size_t>(count));
  for (int64_t r = 0; r < count; ++r) {
    states[static_cast<size_t>(r)] = {h.const_data_ptr<float>() + r * hidden.size(1),
                                      excluded.data() + r * width,
                                      width,
                                      {key, ids.const_data_ptr<int64_t>()[r], static_cast<uint32_t>(step), 0, 0}};
  }
  cpu::RowFault fault;
  cpu::catalogue_sample(torch_runtime(), catalogue_of(catalogue), states.data(), count, k,
                        {values.mutable_data_ptr<float>(), indices.mutable_data_ptr<int64_t>(),
                         opened.mutable_data_ptr<int64_t>(), logsumexp ? total.mutable_data_ptr<float>() : nullptr},
                        fault);
  report(fault, "hidden", k);
  return {values, indices, opened, total};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(irecgan_ext, m) {
  m.def("catalogue_sample" IRECGAN_CATALOGUE_SAMPLE_ARGS " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("check_catalogue_sample" IRECGAN_CATALOGUE_SAMPLE_ARGS " -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CPU, m) { m.impl("catalogue_sample", TORCH_BOX(&catalogue_sample)); }

STABLE_TORCH_LIBRARY_IMPL(irecgan_ext, CompositeExplicitAutograd, m) {
  m.impl("check_catalogue_sample", TORCH_BOX(&check_catalogue_sample));
}

}  // namespace irecgan
