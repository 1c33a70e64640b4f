// Bytes before the loops that are written over it.
#include <immintrin.h>
#include <stdint.h>

namespace gradsift {
namespace {

struct Bytes {
    static constexpr int kRows = 64, kTileColumns = 8, kBlocksAtOnce = 1;
    using Table = __m512i;

    static Table table(const uint8_t* from) {
        return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
    }
    /// Sums of pairs of rows in 16 bits, which the odd one's spills into, and of the odd ones alone.
    struct Sum {
        __m512i both, odd;

        void add(Table entries, const uint8_t* indices) {
            const __m512i found = _mm512_shuffle_epi8(entries, _mm512_load_si512(indices));
            both = _mm512_add_epi16(both, found);
            odd = _mm512_add_epi16(odd, _mm512_srli_epi16(found, 8));
        }
        void store(uint16_t* to) const {
            const __m512i even = _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8));
            const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
            for (int lane = 0; lane < 4; ++lane) {
                store_lane(to + 16 * lane, low, lane);
                store_lane(to + 16 * lane + 8, high, lane);
            }
        }
        static void store_lane(uint16_t* to, __m512i v, int lane) {
            __builtin_memcpy(to, reinterpret_cast<const char*>(&v) + 16 * lane, 16);
        }
    };
};

}  // namespace
}  // namespace gradsift

#include "score_rows/sign_bytes.h"

namespace gradsift {

RowKernel sign_rows_avx512(RowFormat) { return {sign_columns_bytes, pack_signs, score_signs}; }

}  // namespace gradsift
