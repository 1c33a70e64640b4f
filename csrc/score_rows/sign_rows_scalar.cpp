// Bytes before the loops that are written over it.
#include <stdint.h>

namespace gradsift {
namespace {

struct Bytes {
    static constexpr int kRows = 16, kTileColumns = 2, kBlocksAtOnce = 1;
    using Table = const uint8_t*;

    static Table table(const uint8_t* from) { return from; }
    struct Sum {
        uint16_t sums[kRows];

        void add(Table entries, const uint8_t* indices) {
            for (int r = 0; r < kRows; ++r) sums[r] = static_cast<uint16_t>(sums[r] + entries[indices[r]]);
        }
        void store(uint16_t* to) const { __builtin_memcpy(to, sums, sizeof sums); }
    };
};

}  // namespace
}  // namespace gradsift

#include "score_rows/sign_bytes.h"

namespace gradsift {

RowKernel sign_rows_scalar(RowFormat) { return {sign_columns_bytes, pack_signs, score_signs}; }

}  // namespace gradsift
