// A catalogue prepared for draws that look at few of its items: similar items share a block, and each block has what
// bounds its weight from above without a look at its items.
#pragma once

#include <cstdint>

#include "../math/race.h"

namespace irecgan::cpu {

struct Catalogue {
  const float* panels;   // [B, H, kBlock] weights of the items, the item innermost
  const float* bias;     // [B, kBlock], -inf where a place holds no item
  const int64_t* items;  // [B, kBlock] the catalogue's number of the item in each place
  int64_t blocks;        // B
  int64_t width;         // H
  // The bound of block b in the state h (block_bounds.h), g = h - centre:
  //   sum_i exp(h . w_i + bias_i) <= exp(h . centroid_b + log_weight_b) G(spread_b, reach radius_b), reach = |g metric|
  const float* centroids;   // [block_count(B), H, kBlock], packed like the items
  const float* log_weight;  // [block_count(B), kBlock]
  const float* radius;      // [B] largest distance of an item from the centroid
  const float* spread;      // [B] the largest variance in any direction over radius^2
  const float* centre;      // [H], or null for 0
  const double* metric;     // [H, H], or null for the identity
  float weight_scale;       // largest |w_i|
  float bias_scale;         // largest magnitude of bias and log_weight
};

struct CatalogueRow {
  const float* hidden;  // [H]
  const int64_t*
      excluded;  // [excluded_count] places that are not drawn, ascending; padded with numbers beyond the places
  int64_t excluded_count;
  Stream stream;
};

// Where the bounds of one row are written. Rates and times are relative to exp(shift).
struct BlockBounds {
  float* rate;      // [B] bound of the block's weight
  float* earliest;  // [B] lower bound of the block's first candidate arrival
  float* scratch;   // [2, B], which rows may share
};

// A block that was looked into for a row.
struct OpenedBlock {
  int64_t block;
  float shift;  // the block's exact weight is sum exp(shift)
  float sum;    // 0: none of its items may be drawn
  float rate;   // as in BlockBounds, and so is `earliest`
  float earliest;
};

}  // namespace irecgan::cpu
