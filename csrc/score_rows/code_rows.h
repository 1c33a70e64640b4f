// Rows of 8- and 4-bit codes against columns of integers, written once over Codes. Read by the per-ISA files after they
// say what Codes is; all sums are exact, so every one of them has the same result.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "score_rows/code_columns.h"

namespace gradsift {
namespace {

constexpr int kRowsAtOnce = 4;

/// Four rows and some columns, over one chunk of codes.
struct CodePass {
    const uint8_t* rows[kRowsAtOnce];
    const uint8_t* ask[kRowsAtOnce];      // for what is read after this chunk, byte by byte as `rows`; null: nothing
    int64_t steps, ask_first, ask_every;  // at which of the steps it is asked for
    const Codes::Integer* columns;
    int32_t* sums;     // [column][kTileRows], added to
    int32_t* squares;  // [kTileRows], added to
};

template <int kBits, int kColumns, bool kSquares>
inline void add_products(const CodePass& pass) {
    Codes::Sum sums[kColumns][kRowsAtOnce], squares[kRowsAtOnce];
    for (int r = 0; r < kRowsAtOnce; ++r) {
        for (int c = 0; c < kColumns; ++c) sums[c][r] = Codes::zero();
        squares[r] = Codes::zero();
    }
    const Codes::Integer* column = pass.columns;
    int64_t ask_at = pass.ask_first;
    for (int64_t step = 0; step < pass.steps; ++step) {
        const int64_t at = step * Codes::kWidth;
        if (step == ask_at) {
            ask_at += pass.ask_every;
            for (int r = 0; r < kRowsAtOnce; ++r) __builtin_prefetch(pass.ask[r] + at, 0, 2);
        }
        for (int half = 0; half < 8 / kBits; ++half) {
            Codes::Row row[kRowsAtOnce];
            for (int r = 0; r < kRowsAtOnce; ++r) {
                row[r] = kBits == 8 ? Codes::bytes(pass.rows[r] + at)
                                    : (half == 0 ? Codes::low(pass.rows[r] + at) : Codes::high(pass.rows[r] + at));
                if constexpr (kSquares) squares[r] = Codes::add_square<kBits>(squares[r], row[r]);
            }
            for (int c = 0; c < kColumns; ++c, column += Codes::kWidth) {
                const Codes::Column integers = Codes::column(column);
                for (int r = 0; r < kRowsAtOnce; ++r) sums[c][r] = Codes::add_product(sums[c][r], row[r], integers);
            }
        }
    }
    for (int c = 0; c < kColumns; ++c) Codes::add_totals(sums[c], pass.sums + c * kTileRows);
    if constexpr (kSquares) Codes::add_totals(squares, pass.squares);
}

template <int kBits, int kColumns>
inline void add_tile(const CodePass& pass, int64_t columns, bool squares) {
    if constexpr (kColumns > 0) {
        if (columns < kColumns) return add_tile<kBits, kColumns - 1>(pass, columns, squares);
        if constexpr (kColumns < Codes::kTileColumns) {
            if (squares) return add_products<kBits, kColumns, true>(pass);
        }
        add_products<kBits, kColumns, false>(pass);
    }
}

template <int kBits>
void score_codes(const ScoreTile& tile) {
    const int64_t chunk = code_chunk(tile.dim), chunk_bytes = chunk * kBits / 8, row_bytes = tile.dim * kBits / 8;
    const CodeTiles tiles = code_tiles(tile.columns, Codes::kTileColumns);
    int32_t* const sums = reinterpret_cast<int32_t*>(tile.scratch);
    int32_t* const squares = sums + tile.columns * kTileRows;
    __builtin_memset(sums, 0, static_cast<size_t>((tile.columns + 1) * kTileRows) * sizeof *sums);
    const uint8_t* const integers = tile.packed + code_heads_bytes(tile.columns);

    CodePass pass;
    pass.steps = chunk_bytes / Codes::kWidth;
    pass.ask_every = 1 + (tile.columns - tiles.first + tiles.other - 1) / tiles.other;
    // Four rows at a time meet all columns chunk by chunk, so that they come from memory in the order they lie in and
    // stay in the first cache, and each tile of columns asks for its share of the next codes.
    for (int64_t r = 0; r < tile.count; r += kRowsAtOnce) {
        const bool last_rows = r + kRowsAtOnce >= tile.count;
        for (int64_t at = 0; at < row_bytes; at += chunk_bytes) {
            const bool last = at + chunk_bytes == row_bytes;
            const uint8_t* const next =
                !last ? tile.rows + r * tile.stride_bytes + at + chunk_bytes
                      : (last_rows ? tile.ahead : tile.rows + (r + kRowsAtOnce) * tile.stride_bytes);
            for (int64_t k = 0; k < kRowsAtOnce; ++k) {
                const int64_t row = r + k < tile.count ? r + k : tile.count - 1;  // the last one fills up
                pass.rows[k] = tile.rows + row * tile.stride_bytes + at;
                pass.ask[k] = next == nullptr ? nullptr : next + k * tile.stride_bytes;
            }
            pass.squares = squares + r;
            for (int64_t begin = 0, t = 0; begin < tile.columns; ++t) {
                const int64_t most = t == 0 ? tiles.first : tiles.other;
                const int64_t size = tile.columns - begin < most ? tile.columns - begin : most;
                pass.columns = reinterpret_cast<const Codes::Integer*>(integers) +
                               (at / chunk_bytes * tile.columns + begin) * chunk;
                pass.ask_first = next == nullptr ? -1 : t;
                pass.sums = sums + begin * kTileRows + r;
                add_tile<kBits, Codes::kTileColumns>(pass, size, t == 0);
                begin += size;
            }
        }
    }

    const CodeColumn* const heads = reinterpret_cast<const CodeColumn*>(tile.packed);
    for (int64_t c = 0; c < tile.columns; ++c) {
        // Codes::add_product takes codes that are larger by kOffset.
        const int64_t offset = (kBits == 8 ? Codes::kOffset8 : Codes::kOffset4) * heads[c].sum;
        for (int64_t r = 0; r < tile.count; ++r) {
            const int64_t sum = sums[c * kTileRows + r] - offset;
            tile.dots[c * kTileRows + r] = static_cast<float>(static_cast<double>(sum) * heads[c].step);
        }
    }
    for (int64_t r = 0; r < tile.count; ++r) tile.squares[r] = static_cast<float>(Codes::kSquareSign * squares[r]);
}

constexpr CodeLayout layout_of(int bits) {
    return {bits, Codes::kWidth, static_cast<int>(sizeof(Codes::Integer)), Codes::kTileColumns};
}

int64_t packed_code_bytes(int64_t columns, int64_t dim) {
    return code_columns_bytes(columns, dim, static_cast<int>(sizeof(Codes::Integer)));
}

template <int kBits>
int pack_codes(const PackColumns& columns, uint8_t* packed) {
    pack_code_columns(columns, layout_of(kBits), packed);
    return 0;
}

RowKernel code_kernel(RowFormat format) {
    if (format == RowFormat::kInt4) return {packed_code_bytes, pack_codes<4>, score_codes<4>};
    return {packed_code_bytes, pack_codes<8>, score_codes<8>};
}

}  // namespace
}  // namespace gradsift
