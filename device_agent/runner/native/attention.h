// Causal grouped-query attention over a cache of float32, float16 or int8: the exact softmax, block by block of keys
// (online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867; tiled as in arXiv 2205.14135).
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

inline void write_row(float* cache, int64_t row, int64_t dim, const float* x) {
  memcpy(cache + row * dim, x, static_cast<size_t>(dim) * sizeof(float));
}
inline void write_row(uint16_t* cache, int64_t row, int64_t dim, const float* x) {
  for (int64_t i = 0; i < dim; ++i) cache[row * dim + i] = to_half(x[i]);
}
inline void write_row(Int8Cache& cache, int64_t row, int64_t dim, const float* x) {
  float largest = 0;
  for (int64_t i = 0; i < dim; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127.0f;
  cache.scales[row] = scale;
  for (int64_t i = 0; i < dim; ++i) {
    cache.data[row * dim + i] = scale > 0 ? static_cast<int8_t>(std::nearbyint(x[i] / scale)) : int8_t{0};
  }
}

// New rows [S, kv_heads, head_dim] to the positions from `start` on.
template <typename Cache>
void append(const AttentionShape& shape, const float* rows, Cache cache) {
  for (int64_t i = 0; i < shape.length * shape.kv_heads; ++i) {
    write_row(cache, shape.start * shape.kv_heads + i, shape.head_dim, rows + i * shape.head_dim);
  }
}

// --- attention, for each kind of processor ------------------------------------------------------------------------

namespace plain {
#include "attention.inl"
}  // namespace plain

#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace wide {
#include "attention.inl"
}  // namespace wide
#pragma GCC pop_options
#endif

// `kv_head`'s rows from `first` on, at most kRows; rows are independent of each other.
template <typename Cache>
void attend(const AttentionShape& shape, const float* queries, const Cache& keys, const Cache& values, int64_t kv_head,
            int64_t first, float* out) {
#if defined(__x86_64__) && !defined(__clang__)
  static const bool has_wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_wide) return wide::attend(shape, queries, keys, values, kv_head, first, out);
#endif
  plain::attend(shape, queries, keys, values, kv_head, first, out);
}

}  // namespace fulcrum
