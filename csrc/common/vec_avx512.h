// Sixteen lanes, AVX-512 F, BW, VL and DQ; only for files built with those flags.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "common/dtype.h"

namespace gradsift {
namespace {

struct Vec {
    static constexpr int kLanes = 16;
    using Permutation = __m512i;

    __m512 x;

    static __mmask16 first_mask(int64_t count) {
        return count < kLanes ? (__mmask16)((1u << count) - 1) : (__mmask16)0xFFFF;
    }
    static __m512 widen(__m256i half) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }

    static Vec zero() { return {_mm512_setzero_ps()}; }
    static Vec all(float value) { return {_mm512_set1_ps(value)}; }
    static Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static Vec load(const bf16* from) { return {widen(_mm256_loadu_si256((const __m256i*)from))}; }
    static Vec load(const fp16* from) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from))}; }
    static Vec load_first(const float* from, int64_t count) { return {_mm512_maskz_loadu_ps(first_mask(count), from)}; }
    static Vec load_first(const bf16* from, int64_t count) {
        return {widen(_mm256_maskz_loadu_epi16(first_mask(count), from))};
    }
    static Vec first(Vec v, int64_t count) { return {_mm512_maskz_mov_ps(first_mask(count), v.x)}; }
    void store(float* to) const { _mm512_storeu_ps(to, x); }

    static Vec mul_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
    friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.x, b.x)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.x, b.x)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.x, b.x)}; }
    friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.x, b.x)}; }
    static Vec sqrt(Vec v) { return {_mm512_sqrt_ps(v.x)}; }
    // 0 stays 0 and NaN stays NaN.
    static Vec sign(Vec v) {
        const __m512 zero = _mm512_setzero_ps();
        const __mmask16 up = _mm512_cmp_ps_mask(v.x, zero, _CMP_GT_OQ);
        const __mmask16 down = _mm512_cmp_ps_mask(v.x, zero, _CMP_LT_OQ);
        const __m512 raised = _mm512_mask_mov_ps(v.x, up, _mm512_set1_ps(1.0f));
        return {_mm512_mask_mov_ps(raised, down, _mm512_set1_ps(-1.0f))};
    }

    /// Held between −limit and limit.
    static Vec clamp(Vec v, float limit) {
        return {_mm512_min_ps(_mm512_max_ps(v.x, _mm512_set1_ps(-limit)), _mm512_set1_ps(limit))};
    }
    /// Bit l is set where lane l is below zero; −0 and NaN are not.
    static uint32_t below_zero(Vec v) { return _mm512_cmp_ps_mask(v.x, _mm512_setzero_ps(), _CMP_LT_OQ); }
    /// Lane l negated where bit l of `bits` is set.
    static Vec negate(Vec v, uint32_t bits) {
        return {_mm512_mask_xor_ps(v.x, (__mmask16)bits, v.x, _mm512_set1_ps(-0.0f))};
    }
    /// Lane l of `permute(v, xor_lanes(mask))` is lane l ^ mask of v.
    static Permutation xor_lanes(int mask) {
        const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_xor_si512(lanes, _mm512_set1_epi32(mask));
    }
    static Vec permute(Vec v, Permutation lanes) { return {_mm512_permutexvar_ps(lanes, v.x)}; }

    /// The lanes added up in float64.
    static double sum(Vec v) {
        const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v.x));
        const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v.x, 1));
        return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
    }
    /// to[i] += the sum of the lanes of v[i].
    static void add_sums4(const Vec (&v)[4], float* to) {
        const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0].x, v[1].x), _mm512_unpackhi_ps(v[0].x, v[1].x));
        const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2].x, v[3].x), _mm512_unpackhi_ps(v[2].x, v[3].x));
        // each 128 bits hold a sum of every vector
        const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
        const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), quarter));
    }
    /// to[l][r] = from[r][l] for eight rows of sixteen lanes.
    static void transpose8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
        __m512 pairs[8], quads[8];
        for (int r = 0; r < 8; r += 2) {
            const __m512 a = _mm512_loadu_ps(from + r * from_stride), b = _mm512_loadu_ps(from + (r + 1) * from_stride);
            pairs[r] = _mm512_unpacklo_ps(a, b);      // of lanes 0, 1 modulo 4
            pairs[r + 1] = _mm512_unpackhi_ps(a, b);  // of lanes 2, 3
        }
        // quads[2 m + h], 128 bits q: rows 4 h to 4 h + 3 of lane 4 q + m
        for (int h = 0; h < 2; ++h) {
            for (int m = 0; m < 4; ++m) {
                const __m512d low = _mm512_castps_pd(pairs[4 * h + m / 2]);
                const __m512d high = _mm512_castps_pd(pairs[4 * h + 2 + m / 2]);
                quads[2 * m + h] =
                    _mm512_castpd_ps(m % 2 == 0 ? _mm512_unpacklo_pd(low, high) : _mm512_unpackhi_pd(low, high));
            }
        }
        for (int m = 0; m < 4; ++m) {
            const __m512 low = quads[2 * m], high = quads[2 * m + 1];
            float* const out = to + m * to_stride;
            _mm_storeu_ps(out, _mm512_castps512_ps128(low));
            _mm_storeu_ps(out + 4, _mm512_castps512_ps128(high));
            _mm_storeu_ps(out + 4 * to_stride, _mm512_extractf32x4_ps(low, 1));
            _mm_storeu_ps(out + 4 * to_stride + 4, _mm512_extractf32x4_ps(high, 1));
            _mm_storeu_ps(out + 8 * to_stride, _mm512_extractf32x4_ps(low, 2));
            _mm_storeu_ps(out + 8 * to_stride + 4, _mm512_extractf32x4_ps(high, 2));
            _mm_storeu_ps(out + 12 * to_stride, _mm512_extractf32x4_ps(low, 3));
            _mm_storeu_ps(out + 12 * to_stride + 4, _mm512_extractf32x4_ps(high, 3));
        }
    }

    struct SquareSum {
        __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
        void add(Vec v) {
            const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v.x));
            const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v.x, 1));
            low = _mm512_fmadd_pd(a, a, low);
            high = _mm512_fmadd_pd(b, b, high);
        }
        /// The kLanes sums in the order of lanes.
        void store(double* to) const {
            _mm512_storeu_pd(to, low);
            _mm512_storeu_pd(to + 8, high);
        }
        double total() const {
            double lanes[8];
            _mm512_storeu_pd(lanes, _mm512_add_pd(low, high));
            return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
        }
    };
};

}  // namespace
}  // namespace gradsift
