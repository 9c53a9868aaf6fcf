// The distinct click histories of a rollout's step. They form a trie: a step's nodes are children of the nodes of the
// step before.
#pragma once

#include <cstddef>
#include <vector>

#include "session.h"

namespace irecgan::cpu {

// A distinct click history: the state it continues and the symbol it consumes next.
struct Node {
  int64_t parent;  // row of the previous states
  int64_t symbol;  // row of the embedding
  int64_t slot;    // of the parent in Histories::parents
};

class Histories {
 public:
  // One node per distinct (parent, symbol) of the sessions, or per session unless they share; sets their `node`.
  void find(std::vector<Session>& sessions, bool share);

  int64_t count() const { return static_cast<int64_t>(nodes_.size()); }
  // Rows of the previous states that go on; a parent's children share its products.
  const std::vector<int64_t>& parents() const { return parents_; }
  // Nodes by slot; those of slot p are number first_child(p) to first_child(p + 1) - 1.
  const std::vector<int64_t>& children() const { return children_; }
  const Node& child(int64_t number) const {
    return nodes_[static_cast<size_t>(children_[static_cast<size_t>(number)])];
  }
  int64_t first_child(int64_t slot) const { return first_child_[static_cast<size_t>(slot)]; }
  // Sessions by node; those of node n are number first_of(n) to first_of(n + 1) - 1.
  const int64_t* order() const { return order_.data(); }
  int64_t first_of(int64_t node) const { return first_of_node_[static_cast<size_t>(node)]; }

 private:
  int64_t find_node(const Session& session, size_t mask);
  void find_parents(bool share);

  std::vector<Node> nodes_;
  std::vector<int64_t> parents_;
  std::vector<int64_t> order_;
  std::vector<int64_t> first_of_node_;  // [nodes + 1]
  std::vector<int64_t> table_;          // hash table of find: node or -1
  std::vector<int64_t> slots_;          // of the previous step's nodes among the parents, or -1
  std::vector<int64_t> children_;
  std::vector<int64_t> first_child_;  // [parents + 1]
  std::vector<int64_t> next_;         // work space of a sort
};

}  // namespace irecgan::cpu
