// What both kinds of AVX-512 Codes have: sixteen sums of 32 bits a vector. Only for files built with those flags.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace gradsift {
namespace {

struct Avx512Codes {
    static constexpr int kTileColumns = 6;
    using Row = __m512i;
    using Column = __m512i;
    using Sum = __m512i;

    static Sum zero() { return _mm512_setzero_si512(); }
    static Column column(const void* from) { return _mm512_load_si512(from); }
    /// The totals of four sums to four numbers that follow one another.
    static void add_totals(const Sum (&sums)[4], int32_t* totals) {
        const __m512i ab =
            _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
        const __m512i cd =
            _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));
        const __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
        const __m128i one = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
        __m128i* const to = reinterpret_cast<__m128i*>(totals);
        _mm_storeu_si128(to, _mm_add_epi32(_mm_loadu_si128(to), one));
    }
};

}  // namespace
}  // namespace gradsift
