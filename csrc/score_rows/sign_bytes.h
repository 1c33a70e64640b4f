// Signs over Bytes: a vector of table entries, one a row, of a single place in the row. Read by the per-ISA files after
// they say what Bytes is.
#pragma once
#include <stdint.h>

#include "score_rows/sign_columns.h"

namespace gradsift {
namespace {

/// Four rounds of interleaving the halves of sixteen vectors turn rows into columns.
typedef uint8_t Sixteen __attribute__((vector_size(16)));

inline void transpose_bytes(Sixteen (&v)[16]) {
    for (int round = 0; round < 4; ++round) {
        Sixteen t[16];
        for (int i = 0; i < 8; ++i) {
            t[2 * i] = __builtin_shufflevector(v[i], v[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            t[2 * i + 1] =
                __builtin_shufflevector(v[i], v[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < 16; ++i) v[i] = t[i];
    }
}

struct Signs {
    static constexpr int kTileColumns = Bytes::kTileColumns, kRowBlocks = kTileRows / Bytes::kRows;

    /// Byte k of 64 rows becomes 64 indices of its low half, then 64 of the high one.
    static void spread(const uint8_t* const (&rows)[kTileRows], int64_t words, uint8_t* indices) {
        for (int64_t at = 0; at < words * kWordBytes; at += 16) {
            for (int64_t block = 0; block < kTileRows; block += 16) {
                Sixteen v[16];
                for (int r = 0; r < 16; ++r) __builtin_memcpy(&v[r], rows[block + r] + at, 16);
                transpose_bytes(v);
                for (int k = 0; k < 16; ++k) {
                    uint8_t* const to = indices + (at + k) * 2 * kTileRows + block;
                    const Sixteen low = v[k] & 15, high = v[k] >> 4;
                    __builtin_memcpy(to, &low, 16);
                    __builtin_memcpy(to + kTileRows, &high, 16);
                }
            }
        }
    }

    template <int kColumns>
    static void add_sums(const uint8_t* indices, const uint8_t* tables, int64_t words, int32_t* sums, SignAsk& ask,
                         int64_t lines) {
        for (int block = 0; block < kRowBlocks; block += Bytes::kBlocksAtOnce) {
            typename Bytes::Sum total[kColumns][Bytes::kBlocksAtOnce] = {};
            for (int64_t w = 0; w < words; ++w) {
                ask_some(ask, lines);
                for (int half = 0; half < 2; ++half) {
                    for (int k = 0; k < kWordBytes; ++k) {
                        const uint8_t* const index =
                            indices + ((w * kWordBytes + k) * 2 + half) * kTileRows + block * Bytes::kRows;
                        const uint8_t* const table =
                            tables + w * kColumns * kWordTables + (half * kWordBytes + k) * kTableEntries;
                        for (int c = 0; c < kColumns; ++c) {
                            const Bytes::Table entries = Bytes::table(table + c * kWordTables);
                            for (int b = 0; b < Bytes::kBlocksAtOnce; ++b)
                                total[c][b].add(entries, index + b * Bytes::kRows);
                        }
                    }
                }
            }
            for (int c = 0; c < kColumns; ++c) {
                for (int b = 0; b < Bytes::kBlocksAtOnce; ++b) {
                    uint16_t totals[Bytes::kRows];
                    total[c][b].store(totals);
                    int32_t* const to = sums + c * kTileRows + (block + b) * Bytes::kRows;
                    for (int r = 0; r < Bytes::kRows; ++r) to[r] += totals[r];
                }
            }
        }
    }
};

}  // namespace
}  // namespace gradsift

#include "score_rows/sign_rows.h"
