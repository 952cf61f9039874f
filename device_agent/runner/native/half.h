// IEEE half precision in plain integer arithmetic, which every processor and every vectoriser has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fulcrum {

// IEEE half to float by shifts and one product; exact, subnormals too. Infinities do
// not occur: `to_half` keeps what it writes finite.
inline __attribute__((always_inline)) float from_half(uint16_t half) {
  uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  memcpy(&bits, &value, sizeof bits);
  bits |= static_cast<uint32_t>(half & 0x8000) << 16;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Float to IEEE half, to the nearest, ties to even; beyond the largest half it stays the largest. Without branches.
inline __attribute__((always_inline)) uint16_t to_half(float value) {
  uint32_t bits, small;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  float shifted;  // below 2^-14 a half's steps are all 2^-24, which are those of floats from 1/2 on
  memcpy(&shifted, &magnitude, sizeof shifted);
  shifted += 0.5f;
  memcpy(&small, &shifted, sizeof small);
  const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
  const uint32_t finite = magnitude < 0x38800000 ? small - 0x3f000000 : normal;
  return static_cast<uint16_t>(sign | (magnitude >= 0x477fe000 ? 0x7bff : finite));
}

}  // namespace fulcrum
