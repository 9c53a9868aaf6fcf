#include "histories.h"

#include <algorithm>

namespace irecgan::cpu {
namespace {

// order: 0..values.size() - 1 by key(value), equal ones in their order; those of key k are number first[k] to
// first[k + 1] - 1. next: work space.
template <typename T, typename Key>
void sort_by_key(const std::vector<T>& values, size_t keys, const Key& key, std::vector<int64_t>& order,
                 std::vector<int64_t>& first, std::vector<int64_t>& next) {
  first.assign(keys + 1, 0);
  for (const T& value : values) ++first[static_cast<size_t>(key(value)) + 1];
  for (size_t k = 0; k < keys; ++k) first[k + 1] += first[k];
  order.resize(values.size());
  next.assign(first.begin(), first.end());
  int64_t number = 0;
  for (const T& value : values) order[static_cast<size_t>(next[static_cast<size_t>(key(value))]++)] = number++;
}

}  // namespace

void Histories::find(std::vector<Session>& sessions, bool share) {
  nodes_.clear();
  if (share) {
    size_t size = 16;
    while (size < 2 * sessions.size()) size *= 2;
    table_.assign(size, -1);
    for (Session& s : sessions) s.node = find_node(s, size - 1);
  } else {
    for (Session& s : sessions) {
      s.node = count();
      nodes_.push_back(Node{s.parent, s.symbol, 0});
    }
  }
  find_parents(share);
  sort_by_key(nodes_, parents_.size(), [](const Node& node) { return node.slot; }, children_, first_child_, next_);
  sort_by_key(sessions, nodes_.size(), [](const Session& s) { return s.node; }, order_, first_of_node_, next_);
}

int64_t Histories::find_node(const Session& s, size_t mask) {
  const uint64_t key =
      (static_cast<uint64_t>(s.parent) * 0x9E3779B97F4A7C15u) ^ (static_cast<uint64_t>(s.symbol) * 0xC2B2AE3D27D4EB4Fu);
  size_t at = static_cast<size_t>(key ^ key >> 29) & mask;
  for (; table_[at] >= 0; at = (at + 1) & mask) {
    const Node& node = nodes_[static_cast<size_t>(table_[at])];
    if (node.parent == s.parent && node.symbol == s.symbol) return table_[at];
  }
  table_[at] = count();
  nodes_.push_back(Node{s.parent, s.symbol, 0});
  return table_[at];
}

void Histories::find_parents(bool share) {
  parents_.clear();
  int64_t last = -1;
  for (const Node& node : nodes_) last = std::max(last, node.parent);
  slots_.assign(static_cast<size_t>(last + 1), -1);
  for (Node& node : nodes_) {
    int64_t& slot = slots_[static_cast<size_t>(node.parent)];
    if (slot < 0 || !share) {
      slot = static_cast<int64_t>(parents_.size());
      parents_.push_back(node.parent);
    }
    node.slot = slot;
  }
}

}  // namespace irecgan::cpu
