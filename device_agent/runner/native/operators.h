// The operators that Programs call outside the delegate, over the runner's own attention:
//
//   fulcrum::roped_attention       (query, key, value, query_norm, key_norm, eps, frequencies, position,
//                                   keys!, values!) -> out                                           float16 caches
//   fulcrum::roped_attention_int8  (the same and key_scales!, value_scales!) -> out
//   llama::update_cache, llama::custom_sdpa                            float32, ready made, as ExecuTorch names them
//
// Shapes, of ours: query [1, S, heads * head_dim], key and value [1, S, kv_heads * head_dim], norms [head_dim], eps [1],
// frequencies [head_dim / 2], position int64 [1]; of ExecuTorch's: [1, S, heads, head_dim]. Caches are
// [1, L, kv_heads, head_dim], scales [1, L, kv_heads]. The new rows are written at the position first; row i then sees
// positions 0 .. position + i.
#pragma once

#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include "attention.h"

namespace fulcrum {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using Arguments = executorch::runtime::Span<EValue*>;

inline bool holds(const Tensor& tensor, ScalarType type, int64_t count) {
  return tensor.scalar_type() == type && tensor.numel() == count;
}

// Whether `shape` is that of an attention over this cache.
inline bool is_attention(const AttentionShape& shape, const Tensor& cache) {
  return cache.dim() == 4 && cache.size(0) == 1 && cache.size(2) == shape.kv_heads && cache.size(3) == shape.head_dim &&
         shape.kv_heads > 0 && shape.head_dim > 0 && shape.heads % shape.kv_heads == 0 && shape.start >= 0 &&
         shape.start + shape.length <= cache.size(1);
}

template <typename Function>
void in_parallel(int64_t count, Function function) {
  executorch::extension::threadpool::get_threadpool()->run(
      [&](size_t i) { function(static_cast<int64_t>(i)); }, static_cast<size_t>(count));
}

template <typename Cache>
void attend_all(const AttentionShape& shape, const float* queries, const Ready* ready, const Cache& keys,
                const Cache& values, float* out) {
  if (shape.length == 1 && shape.head_dim % kLanes == 0) {
    const auto threads = static_cast<int64_t>(executorch::extension::threadpool::get_threadpool()->get_thread_count());
    const int64_t parts = std::min(threads, shape.kv_heads);
    return in_parallel(parts, [&](int64_t i) {
      attend_one(shape, queries, ready, keys, values, i * shape.kv_heads / parts, (i + 1) * shape.kv_heads / parts, out);
    });
  }
  const int64_t rows = shape.length * shape.group(), tasks = (rows + kRows - 1) / kRows;
  in_parallel(tasks * shape.kv_heads, [&](int64_t i) {
    attend(shape, queries, ready, keys, values, i / tasks, i % tasks * kRows, out);
  });
}

inline bool resized(Tensor& out, const Tensor& like) {
  return executorch::runtime::resize_tensor(out, like.sizes()) == executorch::runtime::Error::Ok;
}

// The arguments that both of our operators begin with.
struct Roped {
  const Tensor &query, &key, &value, &query_norm, &key_norm, &eps, &frequencies, &position;
  Tensor &keys, &values;
  AttentionShape shape{};
  std::vector<float> cosines, sines;

  explicit Roped(Arguments a)
      : query(a[0]->toTensor()), key(a[1]->toTensor()), value(a[2]->toTensor()), query_norm(a[3]->toTensor()),
        key_norm(a[4]->toTensor()), eps(a[5]->toTensor()), frequencies(a[6]->toTensor()), position(a[7]->toTensor()),
        keys(a[8]->toTensor()), values(a[9]->toTensor()) {}

  // Whether everything fits; fills the shape.
  bool fits() {
    const bool there = query.dim() == 3 && query.size(0) == 1 && keys.dim() == 4 && keys.size(3) > 1 &&
                       keys.size(3) % 2 == 0 && query.size(2) % keys.size(3) == 0 && holds(position, ScalarType::Long, 1);
    if (!there) return false;
    const int64_t dim = keys.size(3);
    shape = {query.size(1), query.size(2) / dim, keys.size(2), dim, position.const_data_ptr<int64_t>()[0]};
    const int64_t rows = shape.length * shape.kv_heads * dim;
    return query.scalar_type() == ScalarType::Float && holds(key, ScalarType::Float, rows) &&
           holds(value, ScalarType::Float, rows) && holds(query_norm, ScalarType::Float, dim) &&
           holds(key_norm, ScalarType::Float, dim) && holds(eps, ScalarType::Float, 1) &&
           holds(frequencies, ScalarType::Float, dim / 2) && is_attention(shape, keys) &&
           holds(values, keys.scalar_type(), keys.numel());
  }

  template <typename Cache>
  void run(Cache k, Cache v, Tensor& out) {
    turn();
    const float e = eps.const_data_ptr<float>()[0];
    const Ready as_query{query_norm.const_data_ptr<float>(), e, cosines.data(), sines.data()};
    const Ready as_key{key_norm.const_data_ptr<float>(), e, cosines.data(), sines.data()};
    in_parallel(shape.length, [&](int64_t i) {
      append(shape, key.const_data_ptr<float>(), &as_key, i, k);
      append(shape, value.const_data_ptr<float>(), nullptr, i, v);
    });
    attend_all(shape, query.const_data_ptr<float>(), &as_query, k, v, out.mutable_data_ptr<float>());
  }

 private:
  // The angle is rounded to float32, as it is in training.
  void turn() {
    const int64_t half = shape.head_dim / 2;
    cosines.resize(shape.length * half), sines.resize(shape.length * half);
    for (int64_t i = 0; i < shape.length; ++i) {
      for (int64_t j = 0; j < half; ++j) {
        const float angle = static_cast<float>(shape.start + i) * frequencies.const_data_ptr<float>()[j];
        cosines[i * half + j] = std::cos(angle), sines[i * half + j] = std::sin(angle);
      }
    }
  }
};

inline void roped_attention(KernelRuntimeContext& context, Arguments a) {
  Roped given(a);
  Tensor& out = a[10]->toTensor();
  if (given.keys.scalar_type() != ScalarType::Half || !given.fits() || !resized(out, given.query)) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  given.run(static_cast<uint16_t*>(given.keys.mutable_data_ptr()),
            static_cast<uint16_t*>(given.values.mutable_data_ptr()), out);
}

inline void roped_attention_int8(KernelRuntimeContext& context, Arguments a) {
  Roped given(a);
  Tensor &key_scales = a[10]->toTensor(), &value_scales = a[11]->toTensor(), &out = a[12]->toTensor();
  const bool fits = given.keys.scalar_type() == ScalarType::Char && given.fits();
  const int64_t rows = fits ? given.keys.numel() / given.shape.head_dim : -1;
  if (!fits || !holds(key_scales, ScalarType::Float, rows) || !holds(value_scales, ScalarType::Float, rows) ||
      !resized(out, given.query)) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  given.run(Int8Cache{given.keys.mutable_data_ptr<int8_t>(), key_scales.mutable_data_ptr<float>()},
            Int8Cache{given.values.mutable_data_ptr<int8_t>(), value_scales.mutable_data_ptr<float>()}, out);
}

// Of rows that are ready; fills `shape`.
inline bool is_ready_attention(const Tensor& rows, const Tensor& cache, int64_t start, AttentionShape& shape) {
  if (rows.dim() != 4 || cache.dim() != 4 || rows.size(0) != 1) return false;
  shape = {rows.size(1), rows.size(2), cache.size(2), rows.size(3), start};
  return rows.scalar_type() == ScalarType::Float && cache.scalar_type() == ScalarType::Float &&
         is_attention(shape, cache);
}

// (value, cache!, start, out): out is a dummy.
inline void llama_update_cache(KernelRuntimeContext& context, Arguments a) {
  const Tensor& rows = a[0]->toTensor();
  Tensor& cache = a[1]->toTensor();
  AttentionShape shape;
  if (!is_ready_attention(rows, cache, a[2]->toInt(), shape) || shape.heads != shape.kv_heads) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  for (int64_t i = 0; i < shape.length; ++i) {
    append(shape, rows.const_data_ptr<float>(), nullptr, i, cache.mutable_data_ptr<float>());
  }
}

// (query, keys, values, start, mask, dropout, causal, scale, out), causal and without mask, dropout or scale.
inline void llama_custom_sdpa(KernelRuntimeContext& context, Arguments a) {
  const Tensor &query = a[0]->toTensor(), &keys = a[1]->toTensor(), &values = a[2]->toTensor();
  Tensor& out = a[8]->toTensor();
  AttentionShape shape;
  const bool plain = a[4]->isNone() && a[5]->toDouble() == 0.0 && a[6]->toBool() && a[7]->isNone();
  if (!plain || !is_ready_attention(query, keys, a[3]->toInt(), shape) ||
      !holds(values, ScalarType::Float, keys.numel()) || !resized(out, query)) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  attend_all(shape, query.const_data_ptr<float>(), nullptr, keys.const_data_ptr<float>(),
             values.const_data_ptr<float>(), out.mutable_data_ptr<float>());
}

inline executorch::runtime::Error register_operators() {
  using executorch::runtime::Kernel;
  const Kernel kernels[] = {
      Kernel("fulcrum::roped_attention.out", roped_attention),
      Kernel("fulcrum::roped_attention_int8.out", roped_attention_int8),
      Kernel("llama::update_cache.out", llama_update_cache),
      Kernel("llama::custom_sdpa.out", llama_custom_sdpa),
  };
  return executorch::runtime::register_kernels({kernels, sizeof kernels / sizeof *kernels});
}

}  // namespace fulcrum
