#include "catalogue_sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace irecgan::cpu {
namespace {

constexpr int64_t kFewestRows = 6;  // of a tile: rows that open a block together read it once
constexpr int64_t kMostRows = 96;
constexpr int64_t kTileBounds = int64_t{1} << 20;  // of a tile
constexpr int64_t kFirstBlocks = 64;               // looked into at first, at most
constexpr int64_t kGrowth = 2;                     // blocks looked into next, over those so far, at most

struct Wanted {
  int64_t block;
  int64_t row;  // of the tile
};

// Work space of one thread.
class Tile {
 public:
  Tile(const Catalogue& catalogue, int64_t rows, int64_t k)
      : catalogue_(catalogue),
        k_(k),
        bounds_(static_cast<size_t>(2 * (rows + 1) * catalogue.blocks)),
        smallest_(static_cast<size_t>(kFirstBlocks)),
        reach_(static_cast<size_t>(2 * catalogue.width)),
        found_(static_cast<size_t>(catalogue.blocks)),
        starts_(static_cast<size_t>(catalogue.blocks + 1)),
        arrivals_(static_cast<size_t>(k)),
        log_times_(static_cast<size_t>(k)),
        shifts_(static_cast<size_t>(rows)),
        views_(shifts_.size()),
        opened_(shifts_.size()) {
    float* scratch = bounds_.data() + 2 * rows * catalogue.blocks;
    for (int64_t r = 0; r < rows; ++r) {
      float* mine = bounds_.data() + 2 * r * catalogue.blocks;
      views_[at(r)] = {mine, mine + catalogue.blocks, scratch};
    }
  }

  // Draws for rows[begin..end - 1], whose results are at the same places of `draws`.
  void draw(const CatalogueRow* rows, int64_t begin, int64_t end, const CatalogueDraws& draws, RowFault& fault) {
    kernel_.bound_blocks(catalogue_, rows + begin, end - begin, views_.data(), shifts_.data(), reach_.data());
    wanted_.clear();
    for (int64_t r = 0; r < end - begin; ++r) {
      opened_[at(r)].clear();
      if (std::isnan(shifts_[at(r)]))
        fault.note(begin + r, kNotANumber);
      else
        want(r, draws.logsumexp == nullptr
                    ? kernel_.find_smallest(views_[at(r)].earliest, catalogue_.blocks, std::min(2 * k_, kFirstBlocks),
                                            smallest_.data(), found_.data())
                    : all());
    }
    while (!wanted_.empty()) {
      open(rows + begin);
      std::vector<int64_t> asked;  // rows, in order
      for (const Wanted& w : wanted_) {
        if (asked.empty() || asked.back() != w.row) asked.push_back(w.row);
      }
      wanted_.clear();
      for (const int64_t r : asked) race(rows[begin + r], r, begin + r, draws, fault);
    }
    for (int64_t r = 0; r < end - begin; ++r) {
      draws.opened[begin + r] = static_cast<int64_t>(opened_[at(r)].size());
      if (draws.logsumexp != nullptr) draws.logsumexp[begin + r] = static_cast<float>(logsumexp(opened_[at(r)]));
    }
  }

 private:
  static size_t at(int64_t r) { return static_cast<size_t>(r); }

  int64_t all() {
    for (int64_t b = 0; b < catalogue_.blocks; ++b) found_[at(b)] = b;
    return catalogue_.blocks;
  }

  // Row r is to look into the first `count` blocks of found_.
  void want(int64_t r, int64_t count) {
    for (int64_t i = 0; i < count; ++i) wanted_.push_back({found_[at(i)], r});
  }

  // Sorts what is wanted by block, the rows of a block in order, into sorted_; block b's are starts_[b]..starts_[b + 1]
  // - 1.
  void sort_wanted() {
    starts_.assign(starts_.size(), 0);
    for (const Wanted& w : wanted_) ++starts_[at(w.block + 1)];
    for (size_t b = 1; b < starts_.size(); ++b) starts_[b] += starts_[b - 1];
    sorted_.resize(wanted_.size());
    for (const Wanted& w : wanted_) sorted_[at(starts_[at(w.block)]++)] = w.row;
    for (size_t b = starts_.size() - 1; b > 0; --b) starts_[b] = starts_[b - 1];
    starts_[0] = 0;
  }

  // Looks into what is wanted, block by block.
  void open(const CatalogueRow* rows) {
    sort_wanted();
    for (int64_t block = 0; block < catalogue_.blocks; ++block) {
      const int64_t* which = sorted_.data() + starts_[at(block)];
      const int64_t count = starts_[at(block + 1)] - starts_[at(block)];
      if (count == 0) continue;
      results_.resize(at(count));
      for (int64_t i = 0; i < count; ++i) {
        const BlockBounds& bounds = views_[at(which[i])];
        results_[at(i)] = {block, 0, 0, bounds.rate[block], bounds.earliest[block]};
        bounds.earliest[block] = std::numeric_limits<float>::infinity();  // it need not be found again
      }
      kernel_.open_catalogue_block(catalogue_, rows, which, count, block, results_.data());
      for (int64_t i = 0; i < count; ++i) opened_[at(which[i])].push_back(results_[at(i)]);
    }
  }

  // Races the opened blocks of row r, and asks for those whose candidates come before its last draw.
  void race(const CatalogueRow& row, int64_t r, int64_t to, const CatalogueDraws& draws, RowFault& fault) {
    const std::vector<OpenedBlock>& opened = opened_[at(r)];
    const auto count = static_cast<int64_t>(opened.size());
    const int64_t drawn = kernel_.thinned_race(catalogue_, row, opened.data(), count, shifts_[at(r)], k_,
                                               arrivals_.data(), log_times_.data(), draws.indices + to * k_);
    if (drawn == kNotANumber) {
      fault.note(to, drawn);
      return;
    }
    float limit = std::numeric_limits<float>::infinity();
    if (drawn == k_) {
      limit = kernel_.relative_limit(log_times_[at(k_ - 1)], shifts_[at(r)]);
      for (int64_t i = 0; i < k_; ++i) draws.values[to * k_ + i] = static_cast<float>(-log_times_[at(i)]);
    }
    const float* earliest = views_[at(r)].earliest;
    int64_t more = kernel_.find_below(earliest, catalogue_.blocks, limit, found_.data());
    if (more == 0 && drawn < k_) fault.note(to, drawn);
    // The last draw comes earlier and earlier while it is looked for, so not all of these may be needed.
    if (more > kGrowth * count && more < catalogue_.blocks / 2) {
      std::nth_element(found_.begin(), found_.begin() + kGrowth * count, found_.begin() + more,
                       [&](int64_t a, int64_t b) { return earliest[a] < earliest[b]; });
      more = kGrowth * count;
    }
    want(r, more);
  }

  static double logsumexp(const std::vector<OpenedBlock>& opened) {
    float top = -std::numeric_limits<float>::infinity();
    for (const OpenedBlock& block : opened) top = block.sum > 0 ? std::max(top, block.shift) : top;
    double sum = 0;
    for (const OpenedBlock& block : opened) {
      if (block.sum > 0) sum += static_cast<double>(block.sum) * std::exp(static_cast<double>(block.shift - top));
    }
    return static_cast<double>(top) + std::log(sum);
  }

  const Kernels& kernel_ = kernels();
  const Catalogue& catalogue_;
  const int64_t k_;
  std::vector<float> bounds_, smallest_;
  std::vector<double> reach_;
  std::vector<int64_t> found_, starts_, sorted_;
  std::vector<Arrival> arrivals_;
  std::vector<double> log_times_, shifts_;
  std::vector<BlockBounds> views_;
  std::vector<std::vector<OpenedBlock>> opened_;
  std::vector<Wanted> wanted_;  // in the order of the rows
  std::vector<OpenedBlock> results_;
};

}  // namespace

void catalogue_sample(const Runtime& runtime, const Catalogue& catalogue, const CatalogueRow* rows, int64_t count,
                      int64_t k, const CatalogueDraws& draws, RowFault& fault) {
  const int64_t most = std::clamp(kTileBounds / catalogue.blocks, kFewestRows, kMostRows);
  runtime.parallel_for(count, kFewestRows, [&](int64_t begin, int64_t end) {
    const int64_t tiles = (end - begin + most - 1) / most;
    const int64_t rows_of_tile = (end - begin + tiles - 1) / tiles;
    Tile work(catalogue, rows_of_tile, k);
    for (int64_t first = begin; first < end; first += rows_of_tile) {
      work.draw(rows, first, std::min(end, first + rows_of_tile), draws, fault);
    }
  });
}

}  // namespace irecgan::cpu
