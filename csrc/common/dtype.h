// Element types that arrive from outside. bfloat16 is kept as its 16 bits.
#pragma once
#include <stdint.h>

namespace gradsift {

enum class Dtype : int { kFloat32 = 0, kBfloat16 = 1 };

using bf16 = uint16_t;

struct fp16 {
    uint16_t bits;
};

// static: this header is also read by the per-ISA files, which must not emit shared inline functions.
static inline float to_float(float value) { return value; }

static inline float to_float(bf16 value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}

static inline float to_float(fp16 value) {
    // The exponent is raised by a product, which is exact and makes subnormals normal.
    uint32_t bits = static_cast<uint32_t>(value.bits & 0x7FFF) << 13;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    result *= 0x1p112f;
    __builtin_memcpy(&bits, &result, sizeof result);
    if ((value.bits & 0x7C00) == 0x7C00) bits |= 0x7F800000;
    bits |= static_cast<uint32_t>(value.bits & 0x8000) << 16;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}

static inline int64_t size_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

}  // namespace gradsift
