// Four lanes, NEON of aarch64, which has division, square roots and float64 lanes.
#pragma once
#include <arm_neon.h>
#include <stdint.h>

#include "common/dtype.h"

namespace gradsift {
namespace {

struct Vec {
    static constexpr int kLanes = 4;
    using Permutation = uint8x16_t;  // bytes

    float32x4_t x;

    static uint32x4_t all_bits(uint32_t value) { return vdupq_n_u32(value); }
    static float32x4_t widen(uint16x4_t half) { return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(half), 16)); }

    static Vec zero() { return {vdupq_n_f32(0.0f)}; }
    static Vec all(float value) { return {vdupq_n_f32(value)}; }
    static Vec load(const float* from) { return {vld1q_f32(from)}; }
    static Vec load(const bf16* from) { return {widen(vld1_u16(from))}; }
    static Vec load(const fp16* from) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)))}; }
    static Vec load_first(const float* from, int64_t count) {
        float whole[kLanes] = {};
        for (int64_t l = 0; l < kLanes && l < count; ++l) whole[l] = from[l];
        return load(whole);
    }
    static Vec load_first(const bf16* from, int64_t count) {
        bf16 whole[kLanes] = {};
        for (int64_t l = 0; l < kLanes && l < count; ++l) whole[l] = from[l];
        return load(whole);
    }
    static Vec first(Vec v, int64_t count) {
        const uint32x4_t lanes = {0, 1, 2, 3};
        const uint32x4_t kept = vcltq_u32(lanes, all_bits(count < kLanes ? (uint32_t)count : kLanes));
        return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v.x), kept))};
    }
    void store(float* to) const { vst1q_f32(to, x); }

    static Vec mul_add(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.x, a.x, b.x)}; }
    friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.x, b.x)}; }
    friend Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.x, b.x)}; }
    friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.x, b.x)}; }
    friend Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.x, b.x)}; }
    static Vec sqrt(Vec v) { return {vsqrtq_f32(v.x)}; }
    // 0 stays 0 and NaN stays NaN.
    static Vec sign(Vec v) {
        const float32x4_t raised = vbslq_f32(vcgtzq_f32(v.x), vdupq_n_f32(1.0f), v.x);
        return {vbslq_f32(vcltzq_f32(v.x), vdupq_n_f32(-1.0f), raised)};
    }

    /// Held between −limit and limit.
    static Vec clamp(Vec v, float limit) {
        return {vminnmq_f32(vmaxnmq_f32(v.x, vdupq_n_f32(-limit)), vdupq_n_f32(limit))};
    }
    /// Bit l is set where lane l is below zero; −0 and NaN are not.
    static uint32_t below_zero(Vec v) {
        const uint32x4_t bits = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcltzq_f32(v.x), bits));
    }
    /// Lane l negated where bit l of `bits` is set.
    static Vec negate(Vec v, uint32_t bits) {
        const int32x4_t shifts = {31, 30, 29, 28};
        const uint32x4_t top = vandq_u32(vshlq_u32(all_bits(bits), shifts), all_bits(0x80000000u));
        return {vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v.x), top))};
    }
    /// Lane l of `permute(v, xor_lanes(mask))` is lane l ^ mask of v.
    static Permutation xor_lanes(int mask) {
        const uint8x16_t bytes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        return veorq_u8(bytes, vdupq_n_u8((uint8_t)(mask * 4)));
    }
    static Vec permute(Vec v, Permutation bytes) {
        return {vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v.x), bytes))};
    }

    /// The lanes added up in float64.
    static double sum(Vec v) { return vaddvq_f64(vaddq_f64(vcvt_f64_f32(vget_low_f32(v.x)), vcvt_high_f64_f32(v.x))); }
    /// to[i] += the sum of the lanes of v[i].
    static void add_sums4(const Vec (&v)[4], float* to) {
        const float32x4_t sums = vpaddq_f32(vpaddq_f32(v[0].x, v[1].x), vpaddq_f32(v[2].x, v[3].x));
        vst1q_f32(to, vaddq_f32(vld1q_f32(to), sums));
    }
    struct SquareSum {
        float64x2_t low = vdupq_n_f64(0.0), high = vdupq_n_f64(0.0);
        void add(Vec v) {
            const float64x2_t a = vcvt_f64_f32(vget_low_f32(v.x)), b = vcvt_high_f64_f32(v.x);
            low = vfmaq_f64(low, a, a);
            high = vfmaq_f64(high, b, b);
        }
        /// The kLanes sums in the order of lanes.
        void store(double* to) const {
            vst1q_f64(to, low);
            vst1q_f64(to + 2, high);
        }
        double total() const { return vaddvq_f64(vaddq_f64(low, high)); }
    };
};

}  // namespace
}  // namespace gradsift
