// How project_linear forms a tile of G from bfloat16 with vdpbf16ps, two tokens at a time. Read by the AVX-512 BF16
// file after common/vec_avx512.h.
#pragma once
#include "project_linear/project_linear_tile.h"

namespace gradsift {
namespace {

/// Tiles of 8 × 32, as FloatTiles. Lanes are read where they are, two tokens interleaved in registers; the other side
/// is packed once, the numbers of two tokens beside each other. Sums in float32; the instruction takes subnormal inputs
/// for zero.
class PairTiles {
  public:
    using Entry = bf16;
    static constexpr int kRows = 8;
    static constexpr int kCols = 32;

    PairTiles(const Side<bf16>& lanes, const Side<bf16>& rows, int64_t tokens, float* room)
        : lanes_(lanes),
          tokens_(tokens),
          row_stride_((rows.size() + kRows - 1) / kRows * kRows),
          pairs_(reinterpret_cast<uint32_t*>(room)) {
        // Copied where one line of each token would crowd the cache and they are read more than twice.
        copied_ = rows.size() > 2 * kRows && crowds_cache(lanes, tokens);
        copies_ = reinterpret_cast<bf16*>(pairs_ + (tokens + 1) / 2 * row_stride_);
        pack_rows(rows);
    }

    void take_block(int64_t begin, int64_t end) {
        block_ = begin;
        if (!copied_) return;
        for (int64_t t = 0; t < tokens_; ++t) {
            const bf16* const from = lanes_.data + t * lanes_.stride;
            for (int64_t col = begin; col < end; col += kCols) {
                const __m512i line = _mm512_maskz_loadu_epi16(mask_of(col), from + col);
                _mm512_storeu_si512(copies_ + ((col - begin) / kCols * tokens_ + t) * kCols, line);
            }
        }
    }

    void multiply(int64_t lane, int64_t row, Ahead ahead, float* tile) const {
        const Lanes lanes = at(lane);
        if (lanes.mask == kAll) {
            multiply<true>(lanes, pairs_ + row, row_stride_, tokens_, ahead, tile);
        } else {
            multiply<false>(lanes, pairs_ + row, row_stride_, tokens_, ahead, tile);
        }
    }

    const void* data_of(int64_t lane) const { return at(lane).data; }

  private:
    static constexpr __mmask32 kAll = 0xFFFFFFFFu;

    struct Lanes {
        const bf16* data;
        int64_t stride;
        __mmask32 mask;
    };

    __mmask32 mask_of(int64_t lane) const {
        const int64_t left = lanes_.end - lane;
        return left < kCols ? (__mmask32)((1u << left) - 1) : kAll;
    }

    Lanes at(int64_t lane) const {
        if (!copied_) return {lanes_.data + lane, lanes_.stride, mask_of(lane)};
        return {copies_ + (lane - block_) / kCols * tokens_ * kCols, kCols, kAll};
    }

    /// pairs[t / 2][row]: the first of two tokens in the low half, a missing second one as zero.
    void pack_rows(const Side<bf16>& rows) {
        for (int64_t t = 0; t < tokens_; t += 2) {
            const bf16* const first = rows.data + t * rows.stride + rows.begin;
            const bf16* const second = first + rows.stride;
            uint32_t* const out = pairs_ + t / 2 * row_stride_;
            for (int64_t row = 0; row < row_stride_; row += 16) {
                const __mmask16 mask = Vec::first_mask(rows.size() - row);
                const __m256i low = _mm256_maskz_loadu_epi16(mask, first + row);
                const __m256i high =
                    t + 1 < tokens_ ? _mm256_maskz_loadu_epi16(mask, second + row) : _mm256_setzero_si256();
                const __m512i pair =
                    _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                _mm512_mask_storeu_epi32(out + row, Vec::first_mask(row_stride_ - row), pair);
            }
        }
    }

    template <bool kWhole>
    static __m512i load(const bf16* from, __mmask32 mask) {
        return kWhole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(mask, from);
    }

    template <bool kWhole>
    static __attribute__((noinline)) void multiply(Lanes lanes, const uint32_t* pairs, int64_t pair_stride,
                                                   int64_t tokens, Ahead ahead, float* tile) {
        // Interleaving within 128 bits leaves columns 0-3, 8-11, 16-19, 24-27 in one half, the others in the other.
        __m512 low[kRows], high[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_setzero_ps();
        for (int64_t t = 0; t < tokens; t += 2) {
            __builtin_prefetch(ahead.data, 0, 2);
            __builtin_prefetch(ahead.data + ahead.stride, 0, 2);
            const __m512i a = load<kWhole>(lanes.data, lanes.mask);
            const __m512i b =
                t + 1 < tokens ? load<kWhole>(lanes.data + lanes.stride, lanes.mask) : _mm512_setzero_si512();
            const __m512bh even = (__m512bh)_mm512_unpacklo_epi16(a, b), odd = (__m512bh)_mm512_unpackhi_epi16(a, b);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(pairs[r]));
                low[r] = _mm512_dpbf16_ps(low[r], even, pair);
                high[r] = _mm512_dpbf16_ps(high[r], odd, pair);
            }
            lanes.data += 2 * lanes.stride;
            pairs += pair_stride;
            ahead.data += 2 * ahead.stride;
        }
        const __m512i front = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const __m512i back = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            _mm512_storeu_ps(tile + r * kCols, _mm512_permutex2var_ps(low[r], front, high[r]));
            _mm512_storeu_ps(tile + r * kCols + 16, _mm512_permutex2var_ps(low[r], back, high[r]));
        }
    }

    const Side<bf16> lanes_;
    const int64_t tokens_;
    const int64_t row_stride_;
    uint32_t* const pairs_;
    bf16* copies_;
    bool copied_;
    int64_t block_ = 0;
};

}  // namespace
}  // namespace gradsift
