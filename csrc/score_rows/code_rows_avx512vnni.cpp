// Codes before the loop nest that is written over it.
#include "score_rows/code_rows_avx512.h"

namespace gradsift {
namespace {

/// vpdpbusd multiplies unsigned by signed bytes and adds four products to a sum of 32 bits, which cannot overflow it
/// here: 65,536 · 255 · 127 < 2³¹. So rows come as code + 128 or code + 8.
struct Codes : Avx512Codes {
    static constexpr int kWidth = 64, kOffset8 = 128, kOffset4 = 8;
    using Integer = int8_t;

    static Row bytes(const uint8_t* from) {
        return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(static_cast<char>(0x80)));
    }
    // (bits & 15) ^ 8
    static Row four_bits(__m512i bits) {
        return _mm512_ternarylogic_epi32(bits, _mm512_set1_epi8(15), _mm512_set1_epi8(8), 0x6A);
    }
    static Row low(const uint8_t* from) { return four_bits(_mm512_loadu_si512(from)); }
    static Row high(const uint8_t* from) { return four_bits(_mm512_srli_epi16(_mm512_loadu_si512(from), 4)); }
    // Not the intrinsic: around it GCC 12 copies and spills the sums of a tile.
    static Sum add_product(Sum sum, Row row, Column column) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(column));
        return sum;
    }
    /// Adds −code²: |code| holds 128 as an unsigned byte, −|code| holds −128 as a signed one.
    template <int kBits>
    static Sum add_square(Sum sum, Row row) {
        const __m512i offset = _mm512_set1_epi8(kBits == 8 ? static_cast<char>(0x80) : 8);
        const __m512i code = _mm512_sub_epi8(row, offset), size = _mm512_abs_epi8(code);
        return add_product(sum, size, _mm512_sub_epi8(zero(), size));
    }
    static constexpr int kSquareSign = -1;
};

}  // namespace
}  // namespace gradsift

#include "score_rows/code_rows.h"

namespace gradsift {

RowKernel code_rows_avx512vnni(RowFormat format) { return code_kernel(format); }

}  // namespace gradsift
