// What a C entry point of a test library needs: the lane order, and an exception as text.
#pragma once

#include <exception>
#include <string>

#include "simt.h"

namespace simt {

// Null, or what went wrong; valid until the thread's next call.
template <typename F>
const char* outcome(int reversed, F f) {
  static thread_local std::string message;
  order = reversed ? Order::kReversed : Order::kForward;
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace simt
