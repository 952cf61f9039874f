// ExecuTorch's lookup of quantised embeddings (quantized_decomposed::embedding_byte and embedding_4bit), for a host: the
// wheel's own comes in a library that needs all of torch. On a phone it is ExecuTorch's.
//
//   (weight [V, bytes], scales [V] or [V, groups], zero points or none, quant_min, quant_max, indices, [dtype], out)
//
// Four bits: two numbers a byte, the first in the upper half, each 8 more than its value.
#pragma once

#include "../operators.h"

namespace fulcrum {

inline float number_at(const Tensor& tensor, int64_t i) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return tensor.const_data_ptr<float>()[i];
    case ScalarType::Half: return from_half(static_cast<const uint16_t*>(tensor.const_data_ptr())[i]);
    case ScalarType::Char: return tensor.const_data_ptr<int8_t>()[i];
    case ScalarType::BFloat16: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(tensor.const_data_ptr())[i]) << 16;
      float value;
      memcpy(&value, &bits, sizeof value);
      return value;
    }
    default: return std::numeric_limits<float>::quiet_NaN();
  }
}

inline bool holds_numbers(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16 ||
         type == ScalarType::Char;
}

template <int bits>
void embedding(KernelRuntimeContext& context, Arguments a, size_t out_index) {
  const Tensor &weight = a[0]->toTensor(), &scales = a[1]->toTensor(), &indices = a[5]->toTensor();
  const Tensor* zeros = a[2]->isNone() ? nullptr : &a[2]->toTensor();
  Tensor& out = a[out_index]->toTensor();
  const int64_t rows = weight.size(0), bytes = weight.size(1), width = bytes * 8 / bits;
  const int64_t groups = scales.dim() == 2 ? scales.size(1) : 1;
  std::vector<executorch::aten::SizesType> sizes(indices.sizes().begin(), indices.sizes().end());
  sizes.push_back(static_cast<executorch::aten::SizesType>(width));
  const bool fits = indices.scalar_type() == ScalarType::Long && out.scalar_type() == ScalarType::Float &&
                    width % groups == 0 && holds_numbers(scales) && (!zeros || holds_numbers(*zeros)) &&
                    executorch::runtime::resize_tensor(out, {sizes.data(), sizes.size()}) ==
                        executorch::runtime::Error::Ok;
  if (!fits) return context.fail(executorch::runtime::Error::InvalidArgument);
  const uint8_t* packed = static_cast<const uint8_t*>(weight.const_data_ptr());
  float* to = out.mutable_data_ptr<float>();
  for (int64_t n = 0; n < indices.numel(); ++n) {
    const int64_t row = indices.const_data_ptr<int64_t>()[n];
    if (row < 0 || row >= rows) return context.fail(executorch::runtime::Error::InvalidArgument);
    const uint8_t* from = packed + row * bytes;
    for (int64_t i = 0; i < width; ++i, ++to) {
      const int64_t group = row * groups + i / (width / groups);
      const int value = bits == 4 ? (from[i / 2] >> (i % 2 ? 0 : 4) & 15) - 8
                        : weight.scalar_type() == ScalarType::Char ? static_cast<int8_t>(from[i]) : from[i];
      *to = (static_cast<float>(value) - (zeros ? number_at(*zeros, group) : 0.0f)) * number_at(scales, group);
    }
  }
}

template <int bits, size_t out_index>
void embedding_out(KernelRuntimeContext& context, Arguments a) {
  embedding<bits>(context, a, out_index);
}

inline executorch::runtime::Error register_embeddings() {
  using executorch::runtime::Kernel;
  const Kernel kernels[] = {
      Kernel("quantized_decomposed::embedding_byte.out", embedding_out<8, 6>),
      Kernel("quantized_decomposed::embedding_byte.dtype_out", embedding_out<8, 7>),
      Kernel("quantized_decomposed::embedding_4bit.out", embedding_out<4, 6>),
      Kernel("quantized_decomposed::embedding_4bit.dtype_out", embedding_out<4, 7>),
  };
  return executorch::runtime::register_kernels({kernels, sizeof kernels / sizeof *kernels});
}

}  // namespace fulcrum
