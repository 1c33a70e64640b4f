// What a kernel reads of a projection; no C++ library header, since the per-ISA files include this one.
#pragma once
#include <stdint.h>

namespace gradsift {

enum class ProjectionKind : int { kXor = 0, kRademacher = 1 };

constexpr int64_t kBlockCols = 128;  // columns of a chunk; one Philox block signs that many entries
constexpr int64_t kBlockDim = 8192;  // sketch entries a chunk can reach

/// What a kernel reads to place the entries of one parameter; plain data, pointers into a ProjectionTables.
struct SketchPlan {
    ProjectionKind kind;
    int nonzeros;
    int64_t proj_dim;
    int64_t chunk_rows;  // CR, a power of two
    int chunk_rows_log2;
    int64_t rows;        // of the parameter and, for each repeat, of `signs`
    int64_t row_chunks;  // rows of `masks` for each repeat
    int64_t col_blocks;
    const uint32_t (*signs)[4];  // (nonzeros, rows, col_blocks): 128 sign bits each; xor only
    const uint32_t* masks;       // (nonzeros, row_chunks, col_blocks): mc, mr, q as Philox gave them; xor only
    uint32_t param_id[2];        // h, low word first
    uint32_t seed[2];
};

}  // namespace gradsift
