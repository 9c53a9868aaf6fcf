// What a race says of rows that it could not run.
#pragma once

#include <string>

#include "../cpu/race_buffers.h"
#include "checks.h"

namespace irecgan {

// Throws if a row of `name` was at fault in k draws.
inline void report(const cpu::RowFault& fault, const std::string& name, int64_t k) {
  if (fault.row() < 0) return;
  const std::string where = name + "[" + std::to_string(fault.row()) + "]";
  const std::string logits = name == "logits" ? "" : "logits of ";
  if (fault.drawn() == cpu::kNotANumber) fail(logits + where + " must hold no NaN and no +inf");
  fail(logits + where + " must hold at least k = " + std::to_string(k) + " finite logits, got " +
       std::to_string(fault.drawn()));
}

}  // namespace irecgan
