// Bytes before the loops that are written over it.
#include <immintrin.h>
#include <stdint.h>

namespace gradsift {
namespace {

struct Bytes {
    static constexpr int kRows = 32, kTileColumns = 2, kBlocksAtOnce = 2;
    using Table = __m256i;

    static Table table(const uint8_t* from) {
        return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
    }
    /// Sums of pairs of rows in 16 bits, which the odd one's spills into, and of the odd ones alone.
    struct Sum {
        __m256i both, odd;

        void add(Table entries, const uint8_t* indices) {
            const __m256i found =
                _mm256_shuffle_epi8(entries, _mm256_load_si256(reinterpret_cast<const __m256i*>(indices)));
            both = _mm256_add_epi16(both, found);
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16(found, 8));
        }
        void store(uint16_t* to) const {
            const __m256i even = _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
            const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
            for (int lane = 0; lane < 2; ++lane) {
                store_lane(to + 16 * lane, low, lane);
                store_lane(to + 16 * lane + 8, high, lane);
            }
        }
        static void store_lane(uint16_t* to, __m256i v, int lane) {
            __builtin_memcpy(to, reinterpret_cast<const char*>(&v) + 16 * lane, 16);
        }
    };
};

}  // namespace
}  // namespace gradsift

#include "score_rows/sign_bytes.h"

namespace gradsift {

RowKernel sign_rows_avx2(RowFormat) { return {sign_columns_bytes, pack_signs, score_signs}; }

}  // namespace gradsift
