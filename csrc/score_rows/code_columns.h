// Target columns as integers for rows of 8- and 4-bit codes. Read by the per-ISA files, which must not emit shared
// inline functions: no C++ library header, and functions are static.
#pragma once
#include <stdint.h>

#include "score_rows/row_kernel.h"

namespace gradsift {

constexpr int64_t kChunkCodes = 8192;  // codes of a row that meet all columns before the next ones are read

/// The order in which a kernel reads columns: chunk, tile of columns, step, half, column, `width` integers.
///
/// Eight bits: a step is `width` codes of a row. Four bits: it is `width` bytes, of which the first half takes the low
/// and the second the high four bits.
struct CodeLayout {
    int bits;          // of a row's code
    int width;         // integers of a vector
    int column_bytes;  // of an integer: 1 or 2
    int tile_columns;  // sums a kernel holds for a row at once, at least 2; one is for squares in the first tile
};

/// A column is step · integers, the integers within ±127.
struct CodeColumn {
    double step;
    int64_t sum;  // of the integers
};

/// Columns of the first tile and of the others, the last of which may have fewer.
struct CodeTiles {
    int64_t first, other;
};

static inline CodeTiles code_tiles(int64_t columns, int tile_columns) {
    const int64_t tiles = (columns + tile_columns) / tile_columns;  // with one more column, for squares
    const int64_t most = (columns + tiles) / tiles;
    return {most - 1, most};
}

static inline int64_t code_heads_bytes(int64_t columns) {
    return (columns * static_cast<int64_t>(sizeof(CodeColumn)) + 63) / 64 * 64;
}

static inline int64_t code_chunk(int64_t dim) { return dim < kChunkCodes ? dim : kChunkCodes; }

/// Heads, then integers.
static inline int64_t code_columns_bytes(int64_t columns, int64_t dim, int column_bytes) {
    return code_heads_bytes(columns) + columns * dim * column_bytes;
}

void pack_code_columns(const PackColumns& columns, const CodeLayout& layout, uint8_t* packed);

}  // namespace gradsift
