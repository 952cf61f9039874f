// Monotonic time, and the processor time of this process; both in nanoseconds.
#pragma once

#include <time.h>

#include <cstdint>

namespace fulcrum {

inline int64_t clock_ns(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

inline int64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }
inline int64_t cpu_ns() { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

}  // namespace fulcrum
