// Codes before the loop nest that is written over it.
#include <arm_neon.h>
#include <stdint.h>

namespace gradsift {
namespace {

/// Products of bytes in 16 bits, added pair by pair to sums of 32: what every aarch64 CPU has. sdot would need a level
/// of its own.
struct Codes {
    static constexpr int kWidth = 16, kTileColumns = 4, kOffset8 = 0, kOffset4 = 0;
    using Integer = int8_t;
    using Row = int8x16_t;
    using Column = int8x16_t;
    using Sum = int32x4_t;

    static Sum zero() { return vdupq_n_s32(0); }
    static Row bytes(const uint8_t* from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
    // Four bits to the top, and down again with their sign.
    static Row low(const uint8_t* from) { return vshrq_n_s8(vshlq_n_s8(bytes(from), 4), 4); }
    static Row high(const uint8_t* from) { return vshrq_n_s8(bytes(from), 4); }
    static Column column(const Integer* from) { return vld1q_s8(from); }
    static Sum add_product(Sum sum, Row row, Column column) {
        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(row), vget_low_s8(column)));
        return vpadalq_s16(sum, vmull_high_s8(row, column));
    }
    template <int kBits>
    static Sum add_square(Sum sum, Row row) {
        return add_product(sum, row, row);
    }
    static constexpr int kSquareSign = 1;

    /// The totals of four sums to four numbers that follow one another.
    static void add_totals(const Sum (&sums)[4], int32_t* totals) {
        const int32x4_t four = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
        vst1q_s32(totals, vaddq_s32(vld1q_s32(totals), four));
    }
};

}  // namespace
}  // namespace gradsift

#include "score_rows/code_rows.h"

namespace gradsift {

RowKernel code_rows_neon(RowFormat format) { return code_kernel(format); }

}  // namespace gradsift
