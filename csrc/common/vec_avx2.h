// Eight lanes, AVX2 and FMA; only for files built with those flags.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "common/dtype.h"

namespace gradsift {
namespace {

struct Vec {
    static constexpr int kLanes = 8;
    using Permutation = __m256i;

    __m256 x;

    static __m256i lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
    static __m256i first_mask(int64_t count) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(count < kLanes ? (int)count : kLanes), lane_numbers());
    }

    static Vec zero() { return {_mm256_setzero_ps()}; }
    static Vec all(float value) { return {_mm256_set1_ps(value)}; }
    static Vec load(const float* from) { return {_mm256_loadu_ps(from)}; }
    static Vec load(const bf16* from) {
        const __m128i half = _mm_loadu_si128((const __m128i*)from);
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
    }
    static Vec load(const fp16* from) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from))}; }
    static Vec load_first(const float* from, int64_t count) { return {_mm256_maskload_ps(from, first_mask(count))}; }
    static Vec load_first(const bf16* from, int64_t count) {
        bf16 whole[kLanes] = {};
        for (int64_t l = 0; l < kLanes && l < count; ++l) whole[l] = from[l];
        return load(whole);
    }
    static Vec first(Vec v, int64_t count) { return {_mm256_and_ps(v.x, _mm256_castsi256_ps(first_mask(count)))}; }
    void store(float* to) const { _mm256_storeu_ps(to, x); }

    static Vec mul_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.x, b.x, c.x)}; }
    friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.x, b.x)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.x, b.x)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.x, b.x)}; }
    friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.x, b.x)}; }
    static Vec sqrt(Vec v) { return {_mm256_sqrt_ps(v.x)}; }
    // 0 stays 0 and NaN stays NaN.
    static Vec sign(Vec v) {
        const __m256 zero = _mm256_setzero_ps();
        const __m256 up = _mm256_cmp_ps(v.x, zero, _CMP_GT_OQ);
        const __m256 down = _mm256_cmp_ps(v.x, zero, _CMP_LT_OQ);
        const __m256 raised = _mm256_blendv_ps(v.x, _mm256_set1_ps(1.0f), up);
        return {_mm256_blendv_ps(raised, _mm256_set1_ps(-1.0f), down)};
    }

    /// Held between −limit and limit.
    static Vec clamp(Vec v, float limit) {
        return {_mm256_min_ps(_mm256_max_ps(v.x, _mm256_set1_ps(-limit)), _mm256_set1_ps(limit))};
    }
    /// Bit l is set where lane l is below zero; −0 and NaN are not.
    static uint32_t below_zero(Vec v) {
        return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v.x, _mm256_setzero_ps(), _CMP_LT_OQ));
    }
    /// Lane l negated where bit l of `bits` is set.
    static Vec negate(Vec v, uint32_t bits) {
        const __m256i shifts = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
        const __m256i spread = _mm256_sllv_epi32(_mm256_set1_epi32((int)bits), shifts);
        const __m256 top = _mm256_and_ps(_mm256_castsi256_ps(spread), _mm256_set1_ps(-0.0f));
        return {_mm256_xor_ps(v.x, top)};
    }
    /// Lane l of `permute(v, xor_lanes(mask))` is lane l ^ mask of v.
    static Permutation xor_lanes(int mask) { return _mm256_xor_si256(lane_numbers(), _mm256_set1_epi32(mask)); }
    static Vec permute(Vec v, Permutation lanes) { return {_mm256_permutevar8x32_ps(v.x, lanes)}; }

    /// The lanes added up in float64.
    static double sum(Vec v) {
        const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v.x));
        const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v.x, 1));
        double lanes[4];
        _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
        return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    }
    /// to[i] += the sum of the lanes of v[i].
    static void add_sums4(const Vec (&v)[4], float* to) {
        const __m256 a = _mm256_hadd_ps(v[0].x, v[1].x), b = _mm256_hadd_ps(v[2].x, v[3].x);
        const __m256 sums = _mm256_hadd_ps(a, b);  // each 128 bits hold a sum of every vector
        const __m128 half = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), half));
    }
    struct SquareSum {
        __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
        void add(Vec v) {
            const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v.x));
            const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(v.x, 1));
            low = _mm256_fmadd_pd(a, a, low);
            high = _mm256_fmadd_pd(b, b, high);
        }
        /// The kLanes sums in the order of lanes.
        void store(double* to) const {
            _mm256_storeu_pd(to, low);
            _mm256_storeu_pd(to + 4, high);
        }
        double total() const {
            double lanes[4];
            _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
            return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
        }
    };
};

}  // namespace
}  // namespace gradsift
