// Signs before the loops that are written over it.
#include <immintrin.h>
#include <stdint.h>

#include "score_rows/sign_columns.h"

namespace gradsift {
namespace {

/// A byte permutation looks up 64 entries of one table of 64, which is the four tables of a word's low or high halves:
/// an index is half a byte of a row and, above it, the number of the byte in its word. The four entries of a row lie
/// side by side, where vpdpbusd adds them to a sum of 32 bits.
struct Signs {
    static constexpr int kTileColumns = 4, kRowBlocks = kTileRows / 16, kWordsAtOnce = 16;

    static __m512i index(__m512i words) {
        return _mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0x0F0F0F0F), _mm512_set1_epi32(0x30201000), 0xEA);
    }

    /// Word w of the rows 16b … 16b + 15 becomes the vectors 2b (low halves) and 2b + 1 (high ones) of indices[w].
    static void spread(const uint8_t* const (&rows)[kTileRows], int64_t words, uint8_t* indices) {
        for (int64_t first = 0; first < words; first += kWordsAtOnce) {
            const int64_t here = words - first < kWordsAtOnce ? words - first : kWordsAtOnce;
            const __mmask16 there = static_cast<__mmask16>((1u << here) - 1);
            for (int block = 0; block < kRowBlocks; ++block) {
                __m512i v[16];
                for (int r = 0; r < 16; ++r) {
                    v[r] = _mm512_maskz_loadu_epi32(there, rows[16 * block + r] + first * kWordBytes);
                }
                transpose(v);
                uint8_t* to = indices + (first * kRowBlocks + block) * 2 * 64;
                for (int64_t w = 0; w < here; ++w, to += kRowBlocks * 2 * 64) {
                    _mm512_store_si512(to, index(v[w]));
                    _mm512_store_si512(to + 64, index(_mm512_srli_epi32(v[w], 4)));
                }
            }
        }
    }

    template <int kColumns>
    static void add_sums(const uint8_t* indices, const uint8_t* tables, int64_t words, int32_t* sums, SignAsk& ask,
                         int64_t lines) {
        __m512i total[kColumns][kRowBlocks];
        for (int c = 0; c < kColumns; ++c) {
            for (int b = 0; b < kRowBlocks; ++b) total[c][b] = _mm512_setzero_si512();
        }
        const __m512i ones = _mm512_set1_epi8(1);
        for (int64_t w = 0; w < words; ++w, indices += kRowBlocks * 2 * 64) {
            ask_some(ask, lines);
            __m512i low[kRowBlocks], high[kRowBlocks];
            for (int b = 0; b < kRowBlocks; ++b) {
                low[b] = _mm512_load_si512(indices + b * 128);
                high[b] = _mm512_load_si512(indices + b * 128 + 64);
            }
            for (int c = 0; c < kColumns; ++c, tables += kWordTables) {
                const __m512i table_low = _mm512_load_si512(tables), table_high = _mm512_load_si512(tables + 64);
                for (int b = 0; b < kRowBlocks; ++b) {
                    add_bytes(total[c][b], _mm512_permutexvar_epi8(low[b], table_low), ones);
                    add_bytes(total[c][b], _mm512_permutexvar_epi8(high[b], table_high), ones);
                }
            }
        }
        for (int c = 0; c < kColumns; ++c) {
            for (int b = 0; b < kRowBlocks; ++b) {
                int32_t* const to = sums + c * kTileRows + 16 * b;
                _mm512_store_si512(to, _mm512_add_epi32(_mm512_load_si512(to), total[c][b]));
            }
        }
    }

  private:
    // Not the intrinsic: around it GCC 12 copies and spills the sums of a tile.
    static void add_bytes(__m512i& sum, __m512i bytes, __m512i ones) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(ones));
    }

    /// Sixteen words of sixteen rows: v[r] holds row r before and word r after.
    static void transpose(__m512i (&v)[16]) {
        __m512i t[16];  // t[4q + j]: in each lane L of 128 bits, word 4L + j of the rows 4q … 4q + 3
        for (int q = 0; q < 16; q += 4) {
            const __m512i a = _mm512_unpacklo_epi32(v[q], v[q + 1]), b = _mm512_unpackhi_epi32(v[q], v[q + 1]);
            const __m512i c = _mm512_unpacklo_epi32(v[q + 2], v[q + 3]), d = _mm512_unpackhi_epi32(v[q + 2], v[q + 3]);
            t[q] = _mm512_unpacklo_epi64(a, c);
            t[q + 1] = _mm512_unpackhi_epi64(a, c);
            t[q + 2] = _mm512_unpacklo_epi64(b, d);
            t[q + 3] = _mm512_unpackhi_epi64(b, d);
        }
        for (int j = 0; j < 4; ++j) {
            const __m512i a = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x44),
                          b = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xEE);
            const __m512i c = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x44);
            const __m512i d = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xEE);
            v[j] = _mm512_shuffle_i32x4(a, c, 0x88);
            v[4 + j] = _mm512_shuffle_i32x4(a, c, 0xDD);
            v[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
            v[12 + j] = _mm512_shuffle_i32x4(b, d, 0xDD);
        }
    }
};

}  // namespace
}  // namespace gradsift

#include "score_rows/sign_rows.h"

namespace gradsift {

RowKernel sign_rows_avx512vnni(RowFormat) { return {sign_columns_bytes, pack_signs, score_signs}; }

}  // namespace gradsift
