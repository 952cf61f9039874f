// Causal grouped-query attention over a cache of float32, float16 or int8: the exact softmax, block by block of keys
// (online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867; tiled as in arXiv 2205.14135).
//
// New rows may come as the projections gave them: then queries and keys are normed (RMSNorm, arXiv 1910.07467) and turned
// (RoPE, arXiv 2104.09864) as they are read, and nothing in between is stored.
//
// A block of keys and values is read from the cache once, made float32 in a scratch that stays in L1, and used for all
// query rows of the task: the heads of one group, and up to kRows rows. Nothing as long as the context is allocated.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "half.h"

#define FULCRUM_INLINE inline __attribute__((always_inline))

namespace fulcrum {

constexpr int kLanes = 8;  // floats in a vector: one register of AVX2, two of NEON or SSE
constexpr int64_t kRows = 32, kKeys = 64;

// int8: symmetric, one scale per position and head (value = q * scale); scales [L, kv_heads].
struct Int8Cache {
  int8_t* data;
  float* scales;
};

// Queries [S, heads, head_dim] at positions start .. start + S - 1 over keys and values [L, kv_heads, head_dim].
struct AttentionShape {
  int64_t length, heads, kv_heads, head_dim, start;
  int64_t group() const { return heads / kv_heads; }
  int64_t padded() const { return (head_dim + kLanes - 1) / kLanes * kLanes; }
};

// The float32 copies of one task; `best` and `total` are the running maximum and sum of each row's softmax.
struct Scratch {
  std::vector<float> keys, values, queries, mixed;
  float best[kRows], total[kRows], weights[kRows * kKeys];

  void fit(int64_t padded) {
    if (static_cast<int64_t>(keys.size()) == kKeys * padded) return;
    for (auto* block : {&keys, &values}) block->assign(kKeys * padded, 0.0f);
    for (auto* rows : {&queries, &mixed}) rows->assign(kRows * padded, 0.0f);
  }
};

// How a head's row is made ready: normed with these weights [head_dim], then turned by the angles of its position,
// whose cosines and sines are [S, head_dim / 2]. Pairs are (i, i + head_dim / 2).
struct Ready {
  const float* norm;
  float eps;
  const float *cosines, *sines;
};

// --- attention, for each kind of processor ------------------------------------------------------------------------

namespace plain {
#include "attention.inl"
}  // namespace plain

#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define FULCRUM_WIDE
namespace wide {
#include "attention.inl"
}  // namespace wide
#undef FULCRUM_WIDE
#pragma GCC pop_options
#endif

#if defined(__x86_64__) && !defined(__clang__)
#define FULCRUM_BEST(call)                                                                                  \
  static const bool has_wide =                                                                              \
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");    \
  if (has_wide) return wide::call;                                                                          \
  plain::call
#else
#define FULCRUM_BEST(call) plain::call
#endif

// The new rows [kv_heads, head_dim] of the i-th new position, to their place in the cache; ready already without `ready`.
template <typename Cache>
void append(const AttentionShape& shape, const float* rows, const Ready* ready, int64_t i, Cache cache) {
  FULCRUM_BEST(append(shape, rows, ready, i, cache));
}

// `kv_head`'s rows from `first` on, at most kRows; rows are independent of each other.
template <typename Cache>
void attend(const AttentionShape& shape, const float* queries, const Ready* ready, const Cache& keys,
            const Cache& values, int64_t kv_head, int64_t first, float* out) {
  FULCRUM_BEST(attend(shape, queries, ready, keys, values, kv_head, first, out));
}

// All rows of the only new position, of key-value heads `from` to `to`; head_dim is a multiple of kLanes.
template <typename Cache>
void attend_one(const AttentionShape& shape, const float* queries, const Ready* ready, const Cache& keys,
                const Cache& values, int64_t from, int64_t to, float* out) {
  FULCRUM_BEST(attend_one(shape, queries, ready, keys, values, from, to, out));
}

}  // namespace fulcrum
