#include "histories.h"

#include <algorithm>

namespace irecgan::cpu {

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
  group(sessions);
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

void Histories::group(const std::vector<Session>& sessions) {
  first_of_node_.assign(nodes_.size() + 1, 0);
  for (const Session& s : sessions) ++first_of_node_[static_cast<size_t>(s.node) + 1];
  for (size_t n = 0; n < nodes_.size(); ++n) first_of_node_[n + 1] += first_of_node_[n];
  order_.resize(sessions.size());
  next_.assign(first_of_node_.begin(), first_of_node_.end());
  for (size_t i = 0; i < sessions.size(); ++i)
    order_[static_cast<size_t>(next_[static_cast<size_t>(sessions[i].node)]++)] = static_cast<int64_t>(i);
}

}  // namespace irecgan::cpu
