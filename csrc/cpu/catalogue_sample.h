// Exact draws from a linear softmax that look into few blocks of a prepared catalogue. Raw pointers only.
//
// Every block has a bound on its weight, and a candidate arrival at the bound's rate (thinned_race.h). Blocks are
// looked into in the order of their candidates. The k-th arrival among those looked into is no earlier than the k-th of
// all, so a block whose candidate comes later cannot take part. Which blocks are looked into beyond those changes no
// draw: arrivals are functions of the bounds, the weights and the random numbers alone. With useless bounds that is all
// of them, in tiles of rows as in linear_gumbel_topk.
#pragma once

#include "catalogue.h"
#include "race_buffers.h"
#include "runtime.h"

namespace irecgan::cpu {

struct CatalogueDraws {
  float* values;     // [R, k]
  int64_t* indices;  // [R, k]
  int64_t* opened;   // [R] blocks that were looked into
  float* logsumexp;  // [R] of the items that may be drawn, or null; otherwise every block is looked into
};

// rows [count]; the width and the blocks are the catalogue's.
void catalogue_sample(const Runtime& runtime, const Catalogue& catalogue, const CatalogueRow* rows, int64_t count,
                      int64_t k, const CatalogueDraws& draws, RowFault& fault);

}  // namespace irecgan::cpu
