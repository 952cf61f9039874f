// The part of attention.h that is compiled once per kind of processor, within a namespace of its own: GCC takes a vector
// apart before it inlines, so that what helps must be of the same target as what calls it. No include guard.

typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

FULCRUM_INLINE Floats load(const float* from) {
  Floats v;
  memcpy(&v, from, sizeof v);
  return v;
}
FULCRUM_INLINE void store(float* to, const Floats& v) { memcpy(to, &v, sizeof v); }
FULCRUM_INLINE Floats all(float x) { return Floats{x, x, x, x, x, x, x, x}; }
FULCRUM_INLINE Floats larger(const Floats& a, const Floats& b) { return a > b ? a : b; }
FULCRUM_INLINE float sum(const Floats& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
FULCRUM_INLINE float largest(const Floats& v) {
  float most = v[0];
  for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

// The sums of eight vectors, in a vector; each level adds neighbours of two.
FULCRUM_INLINE Floats add_neighbours(const Floats& a, const Floats& b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
FULCRUM_INLINE Floats sums(const Floats (&v)[8]) {
  const Floats low = add_neighbours(add_neighbours(v[0], v[1]), add_neighbours(v[2], v[3]));
  const Floats high = add_neighbours(add_neighbours(v[4], v[5]), add_neighbours(v[6], v[7]));
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

// e^x for x <= 0, to about 2 units in the last place: 2^n times a polynomial (Cephes' expf; Moshier 1989).
FULCRUM_INLINE Floats exp_negative(const Floats& given) {
  const Floats low = all(-87.0f);
  const Floats x = given < low ? low : given;
  const Floats shifted = x * all(1.44269504088896341f) + all(12582912.0f);  // 1.5 * 2^23 rounds to the nearest whole
  const Floats n = shifted - all(12582912.0f);
  const Floats r = (x - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
  Floats p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  p = p * r * r + r + all(1.0f);
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats scale;
  memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// --- a row of a cache -----------------------------------------------------------------------------------------------

FULCRUM_INLINE void write_row(float* cache, int64_t row, int64_t dim, const float* x) {
  memcpy(cache + row * dim, x, static_cast<size_t>(dim) * sizeof(float));
}
FULCRUM_INLINE void write_row(uint16_t* cache, int64_t row, int64_t dim, const float* x) {
  uint16_t* __restrict to = cache + row * dim;
  for (int64_t i = 0; i < dim; ++i) to[i] = to_half(x[i]);
}
FULCRUM_INLINE void write_row(const Int8Cache& cache, int64_t row, int64_t dim, const float* x) {
  float largest = 0;
  for (int64_t i = 0; i < dim; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127.0f;
  cache.scales[row] = scale;
  int8_t* __restrict to = cache.data + row * dim;
  for (int64_t i = 0; i < dim; ++i) to[i] = scale > 0 ? static_cast<int8_t>(std::nearbyint(x[i] / scale)) : int8_t{0};
}

FULCRUM_INLINE void read_row(const float* cache, int64_t row, int64_t dim, float* out) {
  memcpy(out, cache + row * dim, static_cast<size_t>(dim) * sizeof(float));
}
FULCRUM_INLINE void read_row(const uint16_t* cache, int64_t row, int64_t dim, float* out) {
  const uint16_t* from = cache + row * dim;
  for (int64_t i = 0; i < dim; ++i) out[i] = from_half(from[i]);
}
FULCRUM_INLINE void read_row(const Int8Cache& cache, int64_t row, int64_t dim, float* out) {
  const int8_t* from = cache.data + row * dim;
  const float scale = cache.scales[row];
  for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(from[i]) * scale;
}

// The i-th new position's row of a head, as it meets others.
FULCRUM_INLINE void make_ready(const Ready& ready, int64_t i, int64_t dim, const float* __restrict x,
                               float* __restrict out) {
  Floats squares = {};
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) squares += load(x + d) * load(x + d);
  float total = sum(squares);
  for (; d < dim; ++d) total += x[d] * x[d];
  const float factor = 1.0f / std::sqrt(total / static_cast<float>(dim) + ready.eps);
  const int64_t half = dim / 2;
  const float *norm = ready.norm, *cosines = ready.cosines + i * half, *sines = ready.sines + i * half;
  for (int64_t j = 0; j < half; ++j) {
    const float a = x[j] * factor * norm[j], b = x[half + j] * factor * norm[half + j];
    out[j] = a * cosines[j] - b * sines[j];
    out[half + j] = b * cosines[j] + a * sines[j];
  }
}

template <typename Cache>
FULCRUM_INLINE void append_rows(const AttentionShape& shape, const float* rows, const Ready* ready, int64_t i,
                                const Cache& cache) {
  static thread_local std::vector<float> made;
  made.resize(shape.head_dim);
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    const float* row = rows + (i * shape.kv_heads + head) * shape.head_dim;
    if (ready) make_ready(*ready, i, shape.head_dim, row, made.data());
    write_row(cache, (shape.start + i) * shape.kv_heads + head, shape.head_dim, ready ? made.data() : row);
  }
}

// --- attention ------------------------------------------------------------------------------------------------------

// Scores of two rows over `count` keys, rounded up to fours: 8 products are in flight, and summed together.
FULCRUM_INLINE void score(const float* queries, const float* keys, int64_t count, int64_t padded, float* scores) {
  for (int64_t j = 0; j < count; j += 4) {
    Floats dot[8] = {};
    for (int64_t d = 0; d < padded; d += kLanes) {
      const Floats first = load(queries + d), second = load(queries + padded + d);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Floats key = load(keys + (j + i) * padded + d);
        dot[i] += first * key;
        dot[4 + i] += second * key;
      }
    }
    const Floats four = sums(dot);
    memcpy(scores + j, &four, 16);
    memcpy(scores + kKeys + j, reinterpret_cast<const char*>(&four) + 16, 16);
  }
}

// mixed[r] = mixed[r] * keep[r] + weights[r] . values, for two rows and V vectors of the head.
template <int V>
FULCRUM_INLINE void mix(const float* weights, const float* values, int64_t count, int64_t padded, const float* keep,
                        float* mixed) {
  Floats sum[2 * V];
#pragma GCC unroll 8
  for (int i = 0; i < V; ++i) {
    sum[i] = load(mixed + i * kLanes) * all(keep[0]);
    sum[V + i] = load(mixed + padded + i * kLanes) * all(keep[1]);
  }
  for (int64_t j = 0; j < count; ++j) {
    const Floats first = all(weights[j]), second = all(weights[kKeys + j]);
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) {
      const Floats value = load(values + j * padded + i * kLanes);
      sum[i] += first * value;
      sum[V + i] += second * value;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < V; ++i) {
    store(mixed + i * kLanes, sum[i]);
    store(mixed + padded + i * kLanes, sum[V + i]);
  }
}

// Turns a row's scores into weights of the running softmax; returns what earlier sums must be multiplied with.
FULCRUM_INLINE float weigh(float* scores, int64_t visible, float& best, float& total) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (visible == 0) {
    for (int64_t j = 0; j < kKeys; ++j) scores[j] = 0.0f;
    return 1.0f;
  }
  for (int64_t j = visible; j < kKeys; ++j) scores[j] = kNever;
  Floats high = load(scores);
  for (int64_t j = kLanes; j < kKeys; j += kLanes) high = larger(high, load(scores + j));
  const float highest = std::max(best, largest(high));
  for (int64_t j = 0; j < visible; j += kLanes) store(scores + j, exp_negative(load(scores + j) - all(highest)));
  for (int64_t j = visible; j < kKeys; ++j) scores[j] = 0.0f;
  Floats added = load(scores);
  for (int64_t j = kLanes; j < kKeys; j += kLanes) added += load(scores + j);
  const float keep = best == kNever ? 0.0f : std::exp(best - highest);
  total = total * keep + sum(added);
  best = highest;
  return keep;
}

// Rows `first` .. of one key-value head. A row is a (position, head of the group) pair; row r is position r / group.
// Rows go by twos; an odd one has a row of zeros beside it.
template <typename Cache>
FULCRUM_INLINE void attend_rows(const AttentionShape& shape, const float* queries, const Ready* ready,
                                const Cache& keys, const Cache& values, int64_t kv_head, int64_t first, float* out) {
  static thread_local Scratch s;
  const int64_t dim = shape.head_dim, padded = shape.padded(), group = shape.group();
  const int64_t rows = std::min(kRows, shape.length * group - first);
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  s.fit(padded);
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t row = first + r, place = ((row / group) * shape.heads + kv_head * group + row % group) * dim;
    float* query = &s.queries[r * padded];
    if (r >= rows) std::fill_n(query, dim, 0.0f);
    else if (ready) make_ready(*ready, row / group, dim, queries + place, query);
    else std::copy_n(queries + place, dim, query);
    for (int64_t d = 0; d < dim; ++d) query[d] *= scale;
    s.best[r] = -std::numeric_limits<float>::infinity();
    s.total[r] = 0;
    if (r > rows) break;
  }
  std::fill(s.mixed.begin(), s.mixed.end(), 0.0f);
  const int64_t last = shape.start + (first + rows - 1) / group + 1;  // keys that the last row sees
  for (int64_t begin = 0; begin < last; begin += kKeys) {
    const int64_t count = std::min(kKeys, last - begin);
    for (int64_t j = 0; j < count; ++j) {
      read_row(keys, (begin + j) * shape.kv_heads + kv_head, dim, &s.keys[j * padded]);
      read_row(values, (begin + j) * shape.kv_heads + kv_head, dim, &s.values[j * padded]);
    }
    for (int64_t r = 0; r < rows; r += 2) {
      float* weights = s.weights + r * kKeys;
      score(&s.queries[r * padded], s.keys.data(), count, padded, weights);
      float keep[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t seen = shape.start + (first + r + i) / group + 1 - begin;
        keep[i] = weigh(weights + i * kKeys, std::max<int64_t>(0, std::min(seen, count)), s.best[r + i], s.total[r + i]);
      }
      int64_t d = 0;
      for (; d + 4 * kLanes <= padded; d += 4 * kLanes) {
        mix<4>(weights, &s.values[d], count, padded, keep, &s.mixed[r * padded + d]);
      }
      for (; d < padded; d += kLanes) mix<1>(weights, &s.values[d], count, padded, keep, &s.mixed[r * padded + d]);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = first + r, place = ((row / group) * shape.heads + kv_head * group + row % group) * dim;
    for (int64_t d = 0; d < dim; ++d) out[place + d] = s.mixed[r * padded + d] / s.total[r];
  }
}

// --- attention of a single position ---------------------------------------------------------------------------------
//
// A token that is decoded reads every key and value once, so that what counts is the order in which memory is read:
// position after position, all heads of one beside each other, straight from the cache. The processor does not guess
// this order by itself: it is told what comes kAhead positions later (beyond the cache's end that does nothing).

constexpr int64_t kAhead = 8;

// Eight numbers of a cache from element `at` on, without a row's scale.
FULCRUM_INLINE Floats eight(const float* cache, int64_t at) { return load(cache + at); }
#ifdef FULCRUM_WIDE
FULCRUM_INLINE Floats eight(const uint16_t* cache, int64_t at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(cache + at)));
}
FULCRUM_INLINE Floats eight(const Int8Cache& cache, int64_t at) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(cache.data + at))));
}
#else
FULCRUM_INLINE Floats eight(const uint16_t* cache, int64_t at) {
  Floats value;
  for (int i = 0; i < kLanes; ++i) value[i] = from_half(cache[at + i]);
  return value;
}
FULCRUM_INLINE Floats eight(const Int8Cache& cache, int64_t at) {
  Floats value;
  for (int i = 0; i < kLanes; ++i) value[i] = static_cast<float>(cache.data[at + i]);
  return value;
}
#endif
template <typename Number>
FULCRUM_INLINE void prefetch(const Number* cache, int64_t at, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(Number)) __builtin_prefetch(cache + at + i);
}
FULCRUM_INLINE void prefetch(const Int8Cache& cache, int64_t at, int64_t count) { prefetch(cache.data, at, count); }

template <typename Number>
FULCRUM_INLINE float scale_of(const Number*, int64_t) {
  return 1.0f;
}
FULCRUM_INLINE float scale_of(const Int8Cache& cache, int64_t row) { return cache.scales[row]; }

// Scores of two queries with the keys of four rows.
template <typename Cache>
FULCRUM_INLINE void score_rows(const float* queries, const Cache& keys, const int64_t* rows, int64_t dim,
                               float* scores) {
  Floats dot[8] = {};
  for (int64_t d = 0; d < dim; d += kLanes) {
    const Floats first = load(queries + d), second = load(queries + dim + d);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Floats key = eight(keys, rows[i] * dim + d);
      dot[i] += first * key;
      dot[4 + i] += second * key;
    }
  }
  const Floats four = sums(dot);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    scores[i] = four[i] * scale_of(keys, rows[i]);
    scores[kKeys + i] = four[4 + i] * scale_of(keys, rows[i]);
  }
}

// mixed += weights . values of four rows, for two queries.
template <typename Cache>
FULCRUM_INLINE void mix_rows(const float* weights, const Cache& values, const int64_t* rows, int64_t dim,
                             float* mixed) {
  Floats first[4], second[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    first[i] = all(weights[i] * scale_of(values, rows[i]));
    second[i] = all(weights[kKeys + i] * scale_of(values, rows[i]));
  }
  for (int64_t d = 0; d < dim; d += kLanes) {
    Floats one = load(mixed + d), other = load(mixed + dim + d);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Floats value = eight(values, rows[i] * dim + d);
      one += first[i] * value;
      other += second[i] * value;
    }
    store(mixed + d, one);
    store(mixed + dim + d, other);
  }
}

// Of key-value heads `from` to `to`, for a head_dim that is a multiple of kLanes. Queries go by twos; an odd one of a
// group has one of zeros beside it.
template <typename Cache>
FULCRUM_INLINE void attend_position(const AttentionShape& shape, const float* queries, const Ready* ready,
                                    const Cache& keys, const Cache& values, int64_t from, int64_t to, float* out) {
  static thread_local std::vector<float> asked, mixed, weights, best, total;
  const int64_t dim = shape.head_dim, group = shape.group(), even = (group + 1) / 2 * 2, count = (to - from) * even;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  asked.assign(count * dim, 0.0f), mixed.assign(count * dim, 0.0f), weights.resize(count * kKeys);
  best.assign(count, -std::numeric_limits<float>::infinity()), total.assign(count, 0.0f);
  for (int64_t head = from; head < to; ++head) {
    for (int64_t g = 0; g < group; ++g) {
      const float* query = queries + (head * group + g) * dim;
      float* to_ask = &asked[((head - from) * even + g) * dim];
      if (ready) make_ready(*ready, 0, dim, query, to_ask);
      else std::copy_n(query, dim, to_ask);
      for (int64_t d = 0; d < dim; ++d) to_ask[d] *= scale;
    }
  }
  const int64_t last = shape.start + 1;
  for (int64_t begin = 0; begin < last; begin += kKeys) {
    const int64_t seen = std::min(kKeys, last - begin);
    const auto by_fours = [&](const Cache& cache, auto function) {
      for (int64_t j = 0; j < seen; j += 4) {
        for (int64_t head = from; head < to; ++head) {
          int64_t rows[4];  // beyond the last one it is read again, and has no weight
          for (int64_t i = 0; i < 4; ++i) {
            rows[i] = std::min(begin + j + i, last - 1) * shape.kv_heads + head;
            prefetch(cache, (rows[i] + kAhead * shape.kv_heads) * dim, dim);
          }
          for (int64_t q = (head - from) * even; q < (head - from + 1) * even; q += 2) function(j, q, rows);
        }
      }
    };
    by_fours(keys, [&](int64_t j, int64_t q, const int64_t* rows) {
      score_rows(&asked[q * dim], keys, rows, dim, &weights[q * kKeys + j]);
    });
    for (int64_t q = 0; q < count; ++q) {
      const float keep = weigh(&weights[q * kKeys], seen, best[q], total[q]);
      for (int64_t d = 0; d < dim; ++d) mixed[q * dim + d] *= keep;
    }
    by_fours(values, [&](int64_t j, int64_t q, const int64_t* rows) {
      mix_rows(&weights[q * kKeys + j], values, rows, dim, &mixed[q * dim]);
    });
  }
  for (int64_t head = from; head < to; ++head) {
    for (int64_t g = 0; g < group; ++g) {
      const int64_t q = (head - from) * even + g;
      for (int64_t d = 0; d < dim; ++d) out[(head * group + g) * dim + d] = mixed[q * dim + d] / total[q];
    }
  }
}

// What attention.h calls, for each kind of cache.
inline void append(const AttentionShape& shape, const float* rows, const Ready* ready, int64_t i, float* cache) {
  append_rows(shape, rows, ready, i, cache);
}
inline void attend(const AttentionShape& shape, const float* queries, const Ready* ready, const float* keys,
                   const float* values, int64_t kv_head, int64_t first, float* out) {
  attend_rows(shape, queries, ready, keys, values, kv_head, first, out);
}
inline void attend_one(const AttentionShape& shape, const float* queries, const Ready* ready, const float* keys,
                       const float* values, int64_t from, int64_t to, float* out) {
  attend_position(shape, queries, ready, keys, values, from, to, out);
}
inline void append(const AttentionShape& shape, const float* rows, const Ready* ready, int64_t i, uint16_t* cache) {
  append_rows(shape, rows, ready, i, cache);
}
inline void attend(const AttentionShape& shape, const float* queries, const Ready* ready, const uint16_t* keys,
                   const uint16_t* values, int64_t kv_head, int64_t first, float* out) {
  attend_rows(shape, queries, ready, keys, values, kv_head, first, out);
}
inline void attend_one(const AttentionShape& shape, const float* queries, const Ready* ready, const uint16_t* keys,
                       const uint16_t* values, int64_t from, int64_t to, float* out) {
  attend_position(shape, queries, ready, keys, values, from, to, out);
}
inline void append(const AttentionShape& shape, const float* rows, const Ready* ready, int64_t i, const Int8Cache& cache) {
  append_rows(shape, rows, ready, i, cache);
}
inline void attend(const AttentionShape& shape, const float* queries, const Ready* ready, const Int8Cache& keys,
                   const Int8Cache& values, int64_t kv_head, int64_t first, float* out) {
  attend_rows(shape, queries, ready, keys, values, kv_head, first, out);
}
inline void attend_one(const AttentionShape& shape, const float* queries, const Ready* ready, const Int8Cache& keys,
                       const Int8Cache& values, int64_t from, int64_t to, float* out) {
  attend_position(shape, queries, ready, keys, values, from, to, out);
}
