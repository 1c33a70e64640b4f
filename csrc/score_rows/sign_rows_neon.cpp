// Bytes before the loops that are written over it.
#include <arm_neon.h>
#include <stdint.h>

namespace gradsift {
namespace {

struct Bytes {
    static constexpr int kRows = 16, kTileColumns = 2, kBlocksAtOnce = 4;
    using Table = uint8x16_t;

    static Table table(const uint8_t* from) { return vld1q_u8(from); }
    struct Sum {
        uint16x8_t low, high;

        void add(Table entries, const uint8_t* indices) {
            const uint8x16_t found = vqtbl1q_u8(entries, vld1q_u8(indices));
            low = vaddw_u8(low, vget_low_u8(found));
            high = vaddw_high_u8(high, found);
        }
        void store(uint16_t* to) const {
            vst1q_u16(to, low);
            vst1q_u16(to + 8, high);
        }
    };
};

}  // namespace
}  // namespace gradsift

#include "score_rows/sign_bytes.h"

namespace gradsift {

RowKernel sign_rows_neon(RowFormat) { return {sign_columns_bytes, pack_signs, score_signs}; }

}  // namespace gradsift
