// Codes before the loop nest that is written over it.
#include <immintrin.h>
#include <stdint.h>

namespace gradsift {
namespace {

/// Sixteen bits a code: vpmaddubsw, which takes bytes, cuts off sums of two products beyond 32,767.
struct Codes {
    static constexpr int kWidth = 32, kTileColumns = 6, kOffset8 = 0, kOffset4 = 0;
    using Integer = int16_t;
    using Row = __m512i;
    using Column = __m512i;
    using Sum = __m512i;

    static Sum zero() { return _mm512_setzero_si512(); }
    static __m256i load(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
    static Row bytes(const uint8_t* from) { return _mm512_cvtepi8_epi16(load(from)); }
    // Four bits to the top, and down again with their sign.
    static Row low(const uint8_t* from) {
        return _mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(load(from)), 12), 12);
    }
    static Row high(const uint8_t* from) {
        return _mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(load(from)), 8), 12);
    }
    static Column column(const Integer* from) { return _mm512_load_si512(from); }
    static Sum add_product(Sum sum, Row row, Column column) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(row, column));
    }
    template <int kBits>
    static Sum add_square(Sum sum, Row row) {
        return add_product(sum, row, row);
    }
    static constexpr int kSquareSign = 1;

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

#include "score_rows/code_rows.h"

namespace gradsift {

RowKernel code_rows_avx512(RowFormat format) { return code_kernel(format); }

}  // namespace gradsift
