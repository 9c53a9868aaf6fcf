// cp.async on the host: a copy is made when its group is waited for and not before, so that a kernel which reads too
// early reads what was there.
#pragma once

#include "simt.h"

namespace simt {

// 16 bytes; all zero where not `present`.
inline void copy_async_16(void* to, const void* from, bool present,
                          std::source_location where = std::source_location::current()) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (present && reinterpret_cast<uintptr_t>(from) % 16 != 0))
    throw Misuse("cp.async at " + detail::text(where) + ": addresses must be multiples of 16");
  detail::executor->fiber().copies.back().push_back({to, from, 16, present ? size_t{16} : 0});
}

inline void commit_copies() { detail::executor->fiber().copies.emplace_back(); }

// Until at most `groups` of this thread's committed groups are under way.
inline void wait_copies(size_t groups) {
  auto& copies = detail::executor->fiber().copies;
  while (copies.size() > groups + 1) {
    for (const PendingCopy& copy : copies.front()) {
      std::memcpy(copy.to, copy.from, copy.filled);
      std::memset(static_cast<char*>(copy.to) + copy.filled, 0, copy.bytes - copy.filled);
    }
    copies.erase(copies.begin());
  }
}

}  // namespace simt
