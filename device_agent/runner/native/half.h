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

// Float to IEEE half, to the nearest, ties to even; beyond the largest half it stays the largest.
inline uint16_t to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477fe000) return static_cast<uint16_t>(sign | 0x7bff);
  if (magnitude < 0x38800000) {  // below 2^-14 a half's steps are all 2^-24
    float absolute;
    memcpy(&absolute, &magnitude, sizeof absolute);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(absolute * 0x1p24f)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000;
  return static_cast<uint16_t>(sign | rounded >> 13);
}

}  // namespace fulcrum
