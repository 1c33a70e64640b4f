// Codes before the loop nest that is written over it.
#include <stdint.h>

namespace gradsift {
namespace {

struct Codes {
    static constexpr int kWidth = 16, kTileColumns = 2, kOffset8 = 0, kOffset4 = 0;
    using Integer = int16_t;
    struct Row {
        int16_t codes[kWidth];
    };
    using Column = const Integer*;
    using Sum = int32_t;

    static Sum zero() { return 0; }
    static Row bytes(const uint8_t* from) {
        Row row;
        for (int k = 0; k < kWidth; ++k) row.codes[k] = static_cast<int8_t>(from[k]);
        return row;
    }
    // Four bits of two's complement: the highest is worth −8.
    static Row low(const uint8_t* from) {
        Row row;
        for (int k = 0; k < kWidth; ++k) row.codes[k] = static_cast<int16_t>(((from[k] & 15) ^ 8) - 8);
        return row;
    }
    static Row high(const uint8_t* from) {
        Row row;
        for (int k = 0; k < kWidth; ++k) row.codes[k] = static_cast<int16_t>(((from[k] >> 4) ^ 8) - 8);
        return row;
    }
    static Column column(const Integer* from) { return from; }
    static Sum add_product(Sum sum, const Row& row, Column column) {
        for (int k = 0; k < kWidth; ++k) sum += row.codes[k] * column[k];
        return sum;
    }
    template <int kBits>
    static Sum add_square(Sum sum, const Row& row) {
        return add_product(sum, row, row.codes);
    }
    static constexpr int kSquareSign = 1;

    static void add_totals(const Sum (&sums)[4], int32_t* totals) {
        for (int r = 0; r < 4; ++r) totals[r] += sums[r];
    }
};

}  // namespace
}  // namespace gradsift

#include "score_rows/code_rows.h"

namespace gradsift {

RowKernel code_rows_scalar(RowFormat format) { return code_kernel(format); }

}  // namespace gradsift
