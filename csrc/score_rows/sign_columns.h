// Target columns as tables of sums for rows of signs. Read by the per-ISA files, which must not emit shared inline
// functions: no C++ library header, and functions are static.
#pragma once
#include <stdint.h>

#include "score_rows/row_kernel.h"

namespace gradsift {

constexpr int kTableEntries = 16;      // sums of four numbers by the four signs of half a byte
constexpr int kTableOffset = 128;      // an entry is offset + integer, the integer within ±127
constexpr int64_t kChunkSigns = 1024;  // 256 entries of 255 fit 16 bits
constexpr int64_t kWordBytes = 4;      // of a row, whose low halves have tables side by side, then the high ones
constexpr int64_t kLineBytes = 64;
constexpr int64_t kWordTables = 2 * kWordBytes * kTableEntries;

static inline int64_t sign_heads_bytes(int64_t columns) {
    return (columns * static_cast<int64_t>(sizeof(double)) + 63) / 64 * 64;
}

static inline int64_t sign_chunk(int64_t dim) { return dim < kChunkSigns ? dim : kChunkSigns; }

/// A step for each column, then tables: chunk, tile of columns, word, column, half, byte, entry.
///
/// A column's sum with a row is step · Σ (entry − kTableOffset). An entry is a rounded sum rather than a sum of rounded
/// numbers, so that eight bits hold it as well as they would hold each number alone.
static inline int64_t sign_columns_bytes(int64_t columns, int64_t dim) {
    return sign_heads_bytes(columns) + columns * dim / 4 * kTableEntries;
}

/// Lines of rows that are read later, asked for a few at a time: many at once wait for one another, and the kernel for
/// them.
struct SignAsk {
    const uint8_t* row;  // of which the next line is asked for
    int64_t stride_bytes, rows, row_bytes, line;
};

static inline void ask_some(SignAsk& ask, int64_t lines) {
    for (; lines > 0 && ask.rows > 0; --lines) {
        __builtin_prefetch(ask.row + ask.line, 0, 2);
        ask.line += kLineBytes;
        if (ask.line >= ask.row_bytes) {
            ask.line = 0;
            ask.row += ask.stride_bytes;
            --ask.rows;
        }
    }
}

void pack_sign_columns(const PackColumns& columns, int64_t tile_columns, uint8_t* packed);

}  // namespace gradsift
