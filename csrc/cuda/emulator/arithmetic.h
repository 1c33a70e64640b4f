// CUDA's intrinsics of one thread. Built with -ffp-contract=off, as device code is with --fmad=false.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/emulator/block.h"
#include "cuda/emulator/vectors.h"

// CUDA finds these without a namespace.
using std::fabs;
using std::fma;
using std::fmax;
using std::fmin;
using std::isfinite;
using std::isnan;
using std::max;
using std::min;
using std::sqrt;

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint_as_float(uint32_t a) { return std::bit_cast<float>(a); }
inline uint32_t __float_as_uint(float a) { return std::bit_cast<uint32_t>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline long long __double_as_longlong(double a) { return std::bit_cast<long long>(a); }
inline double __longlong_as_double(long long a) { return std::bit_cast<double>(a); }

inline int __popc(uint32_t a) { return std::popcount(a); }
inline int __popcll(uint64_t a) { return std::popcount(a); }
inline int __clz(int a) { return std::countl_zero(static_cast<uint32_t>(a)); }
inline int __ffs(int a) { return a == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(a)) + 1; }
inline uint32_t __brev(uint32_t a) {
    uint32_t reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (a >> bit & 1u) << (31 - bit);
    return reversed;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by) {
    return static_cast<uint32_t>(((uint64_t{high} << 32 | low) << (by & 31)) >> 32);
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) {
    return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (by & 31));
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t both = uint64_t{b} << 32 | a;
    uint32_t result = 0;
    for (int byte = 0; byte < 4; ++byte) {
        const uint32_t pick = selector >> (4 * byte) & 0xF;
        uint32_t value = static_cast<uint32_t>(both >> (8 * (pick & 7))) & 0xFF;
        if (pick & 8) value = value & 0x80 ? 0xFF : 0;  // the sign of the byte, eight times
        result |= value << (8 * byte);
    }
    return result;
}
inline int __dp4a(int a, int b, int c) {
    for (int byte = 0; byte < 4; ++byte) {
        c += static_cast<int8_t>(a >> (8 * byte)) * static_cast<int8_t>(b >> (8 * byte));
    }
    return c;
}
inline uint32_t __dp4a(uint32_t a, uint32_t b, uint32_t c) {
    for (int byte = 0; byte < 4; ++byte) c += (a >> (8 * byte) & 0xFF) * (b >> (8 * byte) & 0xFF);
    return c;
}

template <class T>
T __ldg(const T* from) {
    return *from;
}

namespace gradsift::cuda {

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
inline float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value =
        std::ldexp(static_cast<float>(exponent == 0 ? mantissa : mantissa + 1024), exponent == 0 ? -24 : exponent - 25);
    if (exponent == 31) value = mantissa == 0 ? INFINITY : NAN;
    return bits >> 15 ? -value : value;
}
inline uint4 load_stream16(const void* from) {
    emulator::require_aligned(from, 16, "load_stream16");
    uint4 value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
inline uint2 load_stream8(const void* from) {
    emulator::require_aligned(from, 8, "load_stream8");
    uint2 value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

}  // namespace gradsift::cuda
