// Codes before the loop nest that is written over it.
#include "score_rows/code_rows_avx512.h"

namespace gradsift {
namespace {

/// Sixteen bits a code: vpmaddubsw, which takes bytes, cuts off sums of two products beyond 32,767.
struct Codes : Avx512Codes {
    static constexpr int kWidth = 32, kOffset8 = 0, kOffset4 = 0;
    using Integer = int16_t;

    static __m256i load(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
    static Row bytes(const uint8_t* from) { return _mm512_cvtepi8_epi16(load(from)); }
    // Four bits to the top, and down again with their sign.
    static Row low(const uint8_t* from) {
        return _mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(load(from)), 12), 12);
    }
    static Row high(const uint8_t* from) {
        return _mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(load(from)), 8), 12);
    }
    static Sum add_product(Sum sum, Row row, Column column) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(row, column));
    }
    template <int kBits>
    static Sum add_square(Sum sum, Row row) {
        return add_product(sum, row, row);
    }
    static constexpr int kSquareSign = 1;
};

}  // namespace
}  // namespace gradsift

#include "score_rows/code_rows.h"

namespace gradsift {

RowKernel code_rows_avx512(RowFormat format) { return code_kernel(format); }

}  // namespace gradsift
