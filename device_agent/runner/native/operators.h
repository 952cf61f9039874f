// The operators that Programs call outside the delegate, over the runner's own attention:
//
//   fulcrum::attention       (query, key, value, keys!, values!, start) -> out          float16 or float32 caches
//   fulcrum::attention_int8  (query, key, value, keys!, values!, key_scales!, value_scales!, start) -> out
//   llama::update_cache, llama::custom_sdpa                                             float32, as ExecuTorch names them
//
// Shapes: query [1, S, heads, head_dim], key and value [1, S, kv_heads, head_dim], caches [1, L, kv_heads, head_dim],
// scales [1, L, kv_heads]. The new rows are written at `start` first; row i then sees positions 0 .. start + i.
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

// Whether these shapes are those of one attention; fills `shape`.
inline bool attention_shape(const Tensor& query, const Tensor& cache, int64_t start, AttentionShape& shape) {
  if (query.dim() != 4 || cache.dim() != 4 || query.size(0) != 1 || cache.size(0) != 1) return false;
  shape = {query.size(1), query.size(2), cache.size(2), query.size(3), start};
  return query.scalar_type() == ScalarType::Float && cache.size(3) == shape.head_dim && shape.kv_heads > 0 &&
         shape.heads % shape.kv_heads == 0 && start >= 0 && start + shape.length <= cache.size(1);
}

inline bool rows_fit(const Tensor& rows, const AttentionShape& shape) {
  return rows.scalar_type() == ScalarType::Float && rows.dim() == 4 && rows.size(1) == shape.length &&
         rows.size(2) == shape.kv_heads && rows.size(3) == shape.head_dim;
}

template <typename Cache>
void attend_all(const AttentionShape& shape, const float* queries, const Cache& keys, const Cache& values, float* out) {
  const int64_t rows = shape.length * shape.group(), tasks = (rows + kRows - 1) / kRows;
  executorch::extension::threadpool::get_threadpool()->run(
      [&](size_t task) {
        const int64_t i = static_cast<int64_t>(task);
        attend(shape, queries, keys, values, i / tasks, i % tasks * kRows, out);
      },
      static_cast<size_t>(tasks * shape.kv_heads));
}

inline bool resized(Tensor& out, const Tensor& like) {
  return executorch::runtime::resize_tensor(out, like.sizes()) == executorch::runtime::Error::Ok;
}

inline void attention(KernelRuntimeContext& context, Arguments a) {
  const Tensor &query = a[0]->toTensor(), &key = a[1]->toTensor(), &value = a[2]->toTensor();
  Tensor &keys = a[3]->toTensor(), &values = a[4]->toTensor(), &out = a[6]->toTensor();
  AttentionShape shape;
  const ScalarType type = keys.scalar_type();
  if (!attention_shape(query, keys, a[5]->toInt(), shape) || !rows_fit(key, shape) || !rows_fit(value, shape) ||
      values.scalar_type() != type || values.numel() != keys.numel() || !resized(out, query)) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  const auto over = [&](auto* k, auto* v) {
    append(shape, key.const_data_ptr<float>(), k);
    append(shape, value.const_data_ptr<float>(), v);
    using Stored = const std::remove_pointer_t<decltype(k)>*;
    attend_all<Stored>(shape, query.const_data_ptr<float>(), k, v, out.mutable_data_ptr<float>());
  };
  if (type == ScalarType::Float) {
    over(keys.mutable_data_ptr<float>(), values.mutable_data_ptr<float>());
  } else if (type == ScalarType::Half) {
    over(static_cast<uint16_t*>(keys.mutable_data_ptr()), static_cast<uint16_t*>(values.mutable_data_ptr()));
  } else {
    context.fail(executorch::runtime::Error::InvalidArgument);
  }
}

inline void attention_int8(KernelRuntimeContext& context, Arguments a) {
  const Tensor &query = a[0]->toTensor(), &key = a[1]->toTensor(), &value = a[2]->toTensor();
  Tensor &keys = a[3]->toTensor(), &values = a[4]->toTensor();
  Tensor &key_scales = a[5]->toTensor(), &value_scales = a[6]->toTensor(), &out = a[8]->toTensor();
  AttentionShape shape;
  const auto holds = [&](const Tensor& cache, const Tensor& scales) {
    return cache.scalar_type() == ScalarType::Char && scales.scalar_type() == ScalarType::Float &&
           cache.numel() == keys.numel() && scales.numel() * shape.head_dim == keys.numel();
  };
  if (!attention_shape(query, keys, a[7]->toInt(), shape) || !rows_fit(key, shape) || !rows_fit(value, shape) ||
      !holds(keys, key_scales) || !holds(values, value_scales) || !resized(out, query)) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  const Int8Cache k{keys.mutable_data_ptr<int8_t>(), key_scales.mutable_data_ptr<float>()};
  const Int8Cache v{values.mutable_data_ptr<int8_t>(), value_scales.mutable_data_ptr<float>()};
  append(shape, key.const_data_ptr<float>(), k);
  append(shape, value.const_data_ptr<float>(), v);
  attend_all(shape, query.const_data_ptr<float>(), k, v, out.mutable_data_ptr<float>());
}

// (value, cache!, start, out): out is a dummy.
inline void llama_update_cache(KernelRuntimeContext& context, Arguments a) {
  const Tensor& rows = a[0]->toTensor();
  Tensor& cache = a[1]->toTensor();
  AttentionShape shape;
  if (!attention_shape(rows, cache, a[2]->toInt(), shape) || !rows_fit(rows, shape) ||
      cache.scalar_type() != ScalarType::Float) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  append(shape, rows.const_data_ptr<float>(), cache.mutable_data_ptr<float>());
}

// (query, keys, values, start, mask, dropout, causal, scale, out), causal and without mask, dropout or scale.
inline void llama_custom_sdpa(KernelRuntimeContext& context, Arguments a) {
  const Tensor &query = a[0]->toTensor(), &keys = a[1]->toTensor(), &values = a[2]->toTensor();
  Tensor& out = a[8]->toTensor();
  AttentionShape shape;
  const bool plain = a[4]->isNone() && a[5]->toDouble() == 0.0 && a[6]->toBool() && a[7]->isNone();
  if (!plain || !attention_shape(query, keys, a[3]->toInt(), shape) || keys.scalar_type() != ScalarType::Float ||
      values.scalar_type() != ScalarType::Float || values.numel() != keys.numel() || !resized(out, query)) {
    return context.fail(executorch::runtime::Error::InvalidArgument);
  }
  attend_all(shape, query.const_data_ptr<float>(), keys.const_data_ptr<float>(), values.const_data_ptr<float>(),
             out.mutable_data_ptr<float>());
}

inline executorch::runtime::Error register_operators() {
  using executorch::runtime::Kernel;
  const Kernel kernels[] = {
      Kernel("fulcrum::attention.out", attention),
      Kernel("fulcrum::attention_int8.out", attention_int8),
      Kernel("llama::update_cache.out", llama_update_cache),
      Kernel("llama::custom_sdpa.out", llama_custom_sdpa),
  };
  return executorch::runtime::register_kernels({kernels, sizeof kernels / sizeof *kernels});
}

}  // namespace fulcrum
