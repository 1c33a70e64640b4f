// What the kernels of score_rows.cu are called with, and how the columns that they read are laid out.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define GRADSIFT_BOTH __host__ __device__
#else
#define GRADSIFT_BOTH
#endif

namespace gradsift {

/// A block of threads takes this many rows at a time, a warp 32 of them.
constexpr int kScoreRowsAtOnce = 256;
constexpr int kScoreThreads = 256;
/// Rows are read, and columns laid out, in pieces of 64 bytes, 16 for each of the four lanes that share a row.
constexpr int kPieceBytes = 64;
constexpr int kMaxPlanes = 3;
constexpr int kMaxStages = 6;

/// By the numbers of a shard's header.
enum : int {
    kRowsFloat32 = 1,
    kRowsFloat16 = 2,
    kRowsBfloat16 = 3,
    kRowsInt8 = 16,
    kRowsInt4 = 17,
    kRowsInt1 = 18,
};

/// How rows of a format meet the tensor cores. A *unit* is what is multiplied before sums go from the tensor cores'
/// accumulators to float32 registers: two pieces of each row as numbers that the tensor cores take. Columns follow the
/// same order, in *planes* whose weighted sum is the column.
struct ScoreFormat {
    int row_pieces;      // pieces of a stored row that a unit takes …
    int units_of_piece;  // … or, where a piece makes several units, how many
    int column_pieces;   // pieces of a column and plane in a unit
    int codes;           // numbers of a row in a unit
    int number_bits;     // of a row
};

GRADSIFT_BOTH constexpr ScoreFormat score_format(int format) {
    switch (format) {
        case kRowsFloat32:
            return {1, 1, 1, 16, 32};  // a number and what tf32 leaves of it: two pieces of one
        case kRowsFloat16:
        case kRowsBfloat16:
            return {2, 1, 2, 64, 16};
        case kRowsInt8:
            return {2, 1, 2, 128, 8};
        case kRowsInt4:
            return {1, 1, 2, 128, 4};
        default:
            return {1, 4, 2, 128, 1};
    }
}

/// Units that one stage of the pipeline holds, for kernels of up to `tiles` times 8 columns.
GRADSIFT_BOTH constexpr int units_of_stage(int format, int tiles) {
    if (format == kRowsInt1) return 4;
    if (format == kRowsFloat32) return 2;
    return format == kRowsInt4 && tiles < 16 ? 2 : 1;
}

GRADSIFT_BOTH constexpr int row_pieces_of_stage(int format, int tiles) {
    return units_of_stage(format, tiles) * score_format(format).row_pieces / score_format(format).units_of_piece;
}

GRADSIFT_BOTH constexpr size_t row_bytes_of_stage(int format, int tiles) {
    return static_cast<size_t>(row_pieces_of_stage(format, tiles)) * kPieceBytes * kScoreRowsAtOnce;
}

/// `tiles` are those of the kernel, `used` those of the columns at hand, 8 columns each.
GRADSIFT_BOTH constexpr size_t column_bytes_of_stage(int format, int tiles, int used, int planes) {
    return static_cast<size_t>(units_of_stage(format, tiles)) * score_format(format).column_pieces * planes * used * 8 *
           kPieceBytes;
}

/// Which number of its row the lane holds: piece `q` of unit `u`, lane `t` of four, register `r` of four, element `e`.
GRADSIFT_BOTH constexpr int64_t number_at(int format, int64_t u, int q, int t, int r, int e) {
    switch (format) {
        case kRowsFloat32:
            return u * 16 + t * 4 + r;
        case kRowsFloat16:
        case kRowsBfloat16:
            return u * 64 + q * 32 + t * 8 + r * 2 + e;
        case kRowsInt8:
            return u * 128 + q * 64 + t * 16 + r * 4 + e;
        case kRowsInt4:
            return u * 128 + 2 * (t * 16 + r * 4 + e) + q;  // low halves, then high ones
        default:
            return u / 4 * 512 + t * 128 + r * 32 + 8 * e + 2 * (u % 4) + q;
    }
}

/// One block of rows at one checkpoint against at most 8 · tiles columns.
struct ScoreRowsArgs {
    const uint8_t* rows;
    int64_t row_stride;  // bytes
    int64_t row_bytes;
    int64_t n;
    const uint8_t* columns;  // packed
    const float*
        column_scale;     // two a column: its step, and what its sum begins with (one bit: the sum of its numbers)
    const float* scales;  // n, of quantised rows; else null
    float* totals;        // (n, …) scores summed over checkpoints so far; or null
    int64_t totals_stride;
    float* influence;
    int32_t* best;
    uint8_t* status;
    double weight;
    int64_t stages_of_row;
    float plane_weight[kMaxPlanes];
    int planes;
    int tiles;
    int n_columns;
    int first_column;
    int all_columns;
    int stages;
    int aligned;  // rows begin, and follow each other, at multiples of 16 bytes
    int codes;    // P
    int add;      // to totals
    int reduce;   // 0 not yet, 1 maximum, 2 mean
    int first_status;
};

/// Status bits; the first two are a datastore's flags. A row whose squared norm float32 does not hold is scored again.
enum : uint8_t { kStatusNonfinite = 2, kStatusZero = 4, kStatusAgain = 128 };

constexpr int kMaxParts = 32;
constexpr int kFinishThreads = 128;

/// After all checkpoints: rows marked kStatusAgain in float64, and NaN for rows that are to have no influence.
struct ScoreFinishArgs {
    const uint8_t* rows[kMaxParts];
    int64_t row_stride[kMaxParts];    // bytes
    const float* targets[kMaxParts];  // (all_columns, dim)
    double weight[kMaxParts];
    int format[kMaxParts];
    int parts;
    int64_t n;
    int64_t dim;
    int all_columns;
    int mean;
    uint8_t hide;             // status bits that make outputs NaN
    const uint8_t* excluded;  // n, nonzero likewise; or null
    float* influence;
    int32_t* best;
    uint8_t* status;
    float* scores;  // or null
    int64_t scores_stride;
};

}  // namespace gradsift
