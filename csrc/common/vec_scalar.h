// Four lanes by the compiler's vector extension: SSE2 on x86-64, NEON on aarch64, plain code elsewhere.
#pragma once
#include <stdint.h>

#include "common/dtype.h"

namespace gradsift {
namespace {

struct Vec {
    static constexpr int kLanes = 4;
    typedef float Floats __attribute__((vector_size(16)));
    typedef uint32_t Bits __attribute__((vector_size(16)));
    typedef int32_t Ints __attribute__((vector_size(16)));
    typedef double Doubles __attribute__((vector_size(32)));
    using Permutation = int;

    Floats x;

    static Vec zero() { return {Floats{0, 0, 0, 0}}; }
    static Vec all(float value) { return {Floats{value, value, value, value}}; }
    static Vec load(const float* from) {
        Floats x;
        __builtin_memcpy(&x, from, sizeof x);
        return {x};
    }
    static Vec load(const bf16* from) {
        Bits bits = {from[0], from[1], from[2], from[3]};
        bits <<= 16;
        return {(Floats)bits};
    }
    static Vec load(const fp16* from) {
        return {Floats{to_float(from[0]), to_float(from[1]), to_float(from[2]), to_float(from[3])}};
    }
    template <class T>
    static Vec load_first(const T* from, int64_t count) {
        Vec v = zero();
        for (int64_t l = 0; l < kLanes && l < count; ++l) v.x[l] = to_float(from[l]);
        return v;
    }
    static Vec first(Vec v, int64_t count) {
        for (int64_t l = 0; l < kLanes; ++l) v.x[l] = l < count ? v.x[l] : 0.0f;
        return v;
    }
    void store(float* to) const { __builtin_memcpy(to, &x, sizeof x); }

    static Vec mul_add(Vec a, Vec b, Vec c) { return {a.x * b.x + c.x}; }
    friend Vec operator+(Vec a, Vec b) { return {a.x + b.x}; }
    friend Vec operator-(Vec a, Vec b) { return {a.x - b.x}; }
    friend Vec operator*(Vec a, Vec b) { return {a.x * b.x}; }
    friend Vec operator/(Vec a, Vec b) { return {a.x / b.x}; }
    static Vec sqrt(Vec v) {
        for (int l = 0; l < kLanes; ++l) v.x[l] = __builtin_sqrtf(v.x[l]);
        return v;
    }
    // 0 stays 0 and NaN stays NaN.
    static Vec sign(Vec v) {
        const Bits positive = (Bits)(v.x > 0.0f), negative = (Bits)(v.x < 0.0f);
        const Bits one = (Bits)all(1.0f).x, minus_one = (Bits)all(-1.0f).x;
        return {(Floats)((positive & one) | (negative & minus_one) | (~(positive | negative) & (Bits)v.x))};
    }

    /// Held between −limit and limit.
    static Vec clamp(Vec v, float limit) {
        const Floats low = all(-limit).x, high = all(limit).x;
        v.x = v.x < low ? low : v.x;
        return {v.x > high ? high : v.x};
    }
    /// Bit l is set where lane l is below zero; −0 and NaN are not.
    static uint32_t below_zero(Vec v) {
        uint32_t bits = 0;
        for (int l = 0; l < kLanes; ++l) bits |= v.x[l] < 0.0f ? 1u << l : 0u;
        return bits;
    }
    /// Lane l negated where bit l of `bits` is set.
    static Vec negate(Vec v, uint32_t bits) {
        const Bits spread = Bits{bits << 31, bits << 30, bits << 29, bits << 28} & 0x80000000u;
        return {(Floats)((Bits)v.x ^ spread)};
    }
    /// Lane l of `permute(v, xor_lanes(mask))` is lane l ^ mask of v.
    static Permutation xor_lanes(int mask) { return mask; }
    static Vec permute(Vec v, Permutation mask) {
        return {Floats{v.x[mask], v.x[1 ^ mask], v.x[2 ^ mask], v.x[3 ^ mask]}};
    }

    /// The lanes added up in float64.
    static double sum(Vec v) { return (double{v.x[0]} + v.x[1]) + (double{v.x[2]} + v.x[3]); }
    /// to[i] += the sum of the lanes of v[i].
    static void add_sums4(const Vec (&v)[4], float* to) {
        for (int i = 0; i < 4; ++i) to[i] += (v[i].x[0] + v[i].x[1]) + (v[i].x[2] + v[i].x[3]);
    }
    struct SquareSum {
        Doubles sum = {0, 0, 0, 0};
        void add(Vec v) {
            const Doubles wide = {v.x[0], v.x[1], v.x[2], v.x[3]};
            sum += wide * wide;
        }
        /// The kLanes sums in the order of lanes.
        void store(double* to) const { __builtin_memcpy(to, &sum, sizeof sum); }
        double total() const { return (sum[0] + sum[1]) + (sum[2] + sum[3]); }
    };
};

}  // namespace
}  // namespace gradsift
