// Between score_rows.cpp and the kernels of each row format and instruction set. No C++ library header here.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace gradsift {

/// Row formats by their number in a shard's header; bfloat16 as 16 bits, codes as docs/datastore-format.md packs them.
enum class RowFormat : int { kFloat32 = 1, kFloat16 = 2, kBfloat16 = 3, kInt8 = 16, kInt4 = 17, kInt1 = 18 };

constexpr int64_t kTileRows = 64;      // rows of one tile, which one thread scores at a time
constexpr int64_t kTileColumns = 128;  // columns packed together; more are scored block by block
constexpr int64_t kTileScratchBytes = 256 << 10;

/// What a kernel packs once a scan. Columns for quantised rows are rotated before: H·D·t / √P.
struct PackColumns {
    const float* targets;  // (columns, dim), `stride` numbers from column to column; finite
    int64_t stride, columns, dim;
};

/// Some consecutive rows against the columns of one pack.
///
/// The sum of a row and a column depends on the two and on `dim` alone, never on where in a tile they lie, so that
/// equal rows tie and blocks, shards and threads change no bit.
struct ScoreTile {
    const uint8_t* rows;  // as stored, any alignment; nothing is read past the last byte of a row
    int64_t stride_bytes;
    int64_t count;  // 1 … kTileRows
    int64_t dim;
    const uint8_t* packed;
    int variant;  // what `pack` returned
    int64_t columns;
    float* dots;           // out: dots[c * kTileRows + r] = ⟨row r, column c⟩; rows from `count` on may be written too
    float* squares;        // out: squares[r] = ‖row r‖²
    uint8_t* scratch;      // kTileScratchBytes, aligned to 64 bytes
    const uint8_t* ahead;  // the row that is read after these, to be asked for early; null: none
};

/// How rows of one format meet their columns on one instruction set. Rows of codes are taken as integers: their scale
/// cancels when they are normalised.
struct RowKernel {
    int64_t (*packed_bytes)(int64_t columns, int64_t dim);     // room that `pack` needs at most
    int (*pack)(const PackColumns& columns, uint8_t* packed);  // to 64-byte aligned memory
    void (*tile)(const ScoreTile& tile);
};

/// Of a format that the file reads; each is the file's one entry point.
using RowKernelFn = RowKernel (*)(RowFormat format);

RowKernel float_rows_scalar(RowFormat format);
RowKernel float_rows_neon(RowFormat format);
RowKernel float_rows_avx2(RowFormat format);
RowKernel float_rows_avx512(RowFormat format);
RowKernel bfloat16_rows_avx512bf16(RowFormat format);
RowKernel code_rows_scalar(RowFormat format);
RowKernel code_rows_neon(RowFormat format);
RowKernel code_rows_avx2(RowFormat format);
RowKernel code_rows_avx512(RowFormat format);
RowKernel code_rows_avx512vnni(RowFormat format);
RowKernel sign_rows_scalar(RowFormat format);
RowKernel sign_rows_neon(RowFormat format);
RowKernel sign_rows_avx2(RowFormat format);
RowKernel sign_rows_avx512(RowFormat format);
RowKernel sign_rows_avx512vnni(RowFormat format);

}  // namespace gradsift
