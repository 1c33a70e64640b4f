// Rows of signs against tables of sums, written once over Signs. Read by the per-ISA files after they say what Signs
// is; all sums are exact, so every one of them has the same result.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "score_rows/sign_columns.h"

namespace gradsift {
namespace {

template <int kColumns>
inline void add_sign_tile(const uint8_t* indices, const uint8_t* tables, int64_t words, int64_t columns, int32_t* sums,
                          SignAsk& ask, int64_t lines) {
    if constexpr (kColumns > 0) {
        if (columns < kColumns) return add_sign_tile<kColumns - 1>(indices, tables, words, columns, sums, ask, lines);
        Signs::add_sums<kColumns>(indices, tables, words, sums, ask, lines);
    }
}

void score_signs(const ScoreTile& tile) {
    const int64_t chunk_bytes = sign_chunk(tile.dim) / 8, row_bytes = tile.dim / 8, words = chunk_bytes / kWordBytes;
    int32_t* const sums = reinterpret_cast<int32_t*>(tile.scratch);
    uint8_t* const indices = tile.scratch + kTileColumns * kTileRows * static_cast<int64_t>(sizeof *sums);
    __builtin_memset(sums, 0, static_cast<size_t>(tile.columns * kTileRows) * sizeof *sums);

    const uint8_t* tables = tile.packed + sign_heads_bytes(tile.columns);
    // At each word, so that all of a chunk's lines are asked for while it meets the columns.
    const int64_t column_tiles = (tile.columns + Signs::kTileColumns - 1) / Signs::kTileColumns;
    const int64_t all_lines = tile.count * ((chunk_bytes + kLineBytes - 1) / kLineBytes);
    const int64_t lines = (all_lines + words * column_tiles - 1) / (words * column_tiles);
    const uint8_t* rows[kTileRows];
    for (int64_t at = 0; at < row_bytes; at += chunk_bytes) {
        for (int64_t r = 0; r < kTileRows; ++r) {
            const int64_t row = r < tile.count ? r : tile.count - 1;  // the last one fills up
            rows[r] = tile.rows + row * tile.stride_bytes + at;
        }
        SignAsk ask{};
        if (tile.ahead != nullptr) ask = {tile.ahead + at, tile.stride_bytes, tile.count, chunk_bytes, 0};
        Signs::spread(rows, words, indices);
        for (int64_t begin = 0; begin < tile.columns; begin += Signs::kTileColumns) {
            const int64_t left = tile.columns - begin, size = left < Signs::kTileColumns ? left : Signs::kTileColumns;
            add_sign_tile<Signs::kTileColumns>(indices, tables, words, size, sums + begin * kTileRows, ask, lines);
            tables += size * words * kWordTables;
        }
    }

    const double* const steps = reinterpret_cast<const double*>(tile.packed);
    const int32_t offset = static_cast<int32_t>(tile.dim / 4 * kTableOffset);
    for (int64_t c = 0; c < tile.columns; ++c) {
        for (int64_t r = 0; r < tile.count; ++r) {
            tile.dots[c * kTileRows + r] = static_cast<float>((sums[c * kTileRows + r] - offset) * steps[c]);
        }
    }
    for (int64_t r = 0; r < tile.count; ++r) tile.squares[r] = static_cast<float>(tile.dim);
}

int pack_signs(const PackColumns& columns, uint8_t* packed) {
    pack_sign_columns(columns, Signs::kTileColumns, packed);
    return 0;
}

}  // namespace
}  // namespace gradsift
