// Rows against columns: dot products on the tensor cores, squared norms in the same pass, weights and reduction.
#include "cuda/device.h"
#include "score_rows/best_column.h"
#include "score_rows/row_operands.h"
#include "score_rows/score_rows_args.h"

namespace gradsift {
namespace {

using namespace gradsift::cuda;

/// Waits until at most `left` groups of copies are in flight.
__device__ __forceinline__ void wait_for_copies(int left) {
    switch (left) {
        case 0:
            cp_async_wait<0>();
            break;
        case 1:
            cp_async_wait<1>();
            break;
        case 2:
            cp_async_wait<2>();
            break;
        case 3:
            cp_async_wait<3>();
            break;
        default:
            cp_async_wait<4>();
            break;
    }
}

/// The copies of one block of threads: its rows piece by piece, and the columns' share of the same numbers. A lane
/// reads back what it copied itself of the rows; columns are copied by all for all.
template <class Rows, int kTiles>
struct Pipeline {
    static constexpr int kPieces = row_pieces_of_stage(Rows::kFormat, kTiles);
    static constexpr size_t kRowBytes = row_bytes_of_stage(Rows::kFormat, kTiles);

    const ScoreRowsArgs& args;
    uint8_t* const pool;
    const int column_bytes;
    int64_t tile, at = 0;  // the next stage to copy
    int slot = 0;

    __device__ __forceinline__ Pipeline(const ScoreRowsArgs& a, uint8_t* p)
        : args(a),
          pool(p),
          column_bytes(static_cast<int>(column_bytes_of_stage(Rows::kFormat, kTiles, a.tiles, a.planes))),
          tile(blockIdx.x) {}

    __device__ __forceinline__ uint8_t* stage(int s) const { return pool + s * (kRowBytes + column_bytes); }

    __device__ __forceinline__ void copy_next() {
        const int thread = static_cast<int>(threadIdx.x), lane = thread & 31;
        if (tile * kScoreRowsAtOnce < args.n) {
            uint8_t* const to = stage(slot);
            uint8_t* const mine = to + thread / 32 * (kPieces * 2048) + lane * 16;
            const int64_t first = tile * kScoreRowsAtOnce + thread / 32 * 32 + lane / 4;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int64_t row = first + 8 * i;
#pragma unroll
                for (int piece = 0; piece < kPieces; ++piece) {
                    const int64_t byte = (at * kPieces + piece) * kPieceBytes + lane % 4 * 16;
                    const int64_t left = row < args.n ? args.row_bytes - byte : 0;
                    const int bytes = left < 0 ? 0 : left > 16 ? 16 : static_cast<int>(left);
                    const uint8_t* const from = bytes ? args.rows + row * args.row_stride + byte : args.rows;
                    uint8_t* const place = mine + (i * kPieces + piece) * 512;
                    if (args.aligned) {
                        cp_async16(place, from, bytes);
                    } else {
                        for (int b = 0; b < 16; ++b) place[b] = b < bytes ? from[b] : 0;
                    }
                }
            }
            const uint8_t* const columns = args.columns + at * column_bytes;
            for (int b = thread * 16; b < column_bytes; b += kScoreThreads * 16) {
                cp_async16(to + kRowBytes + b, columns + b);
            }
            slot = slot + 1 == args.stages ? 0 : slot + 1;
            if (++at == args.stages_of_row) {
                at = 0;
                tile += gridDim.x;
            }
        }
        cp_async_commit();
    }
};

/// The sums of one lane: rows g + 8·i of its warp, columns 8·j + 2·t and the next.
template <int kTiles>
using Sums = float[2][kTiles][4];

template <class Rows, int kTiles>
__device__ __forceinline__ void multiply_unit(Sums<kTiles>& sums, const Operand& a, const uint8_t* columns,
                                              const ScoreRowsArgs& args) {
    constexpr int kColumnPieces = score_format(Rows::kFormat).column_pieces;
    const int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
    for (int pair = 0; pair < kTiles / 2; ++pair) {
        if (2 * pair >= args.tiles) break;
#pragma unroll 1
        for (int plane = 0; plane < args.planes; ++plane) {
            const uint8_t* const from = columns + (plane * args.tiles + 2 * pair) * (kColumnPieces * 512) + lane * 16;
            typename Rows::Dot dots[2][2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) dots[m][j][e] = Rows::start();
                }
            }
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                // what tf32 leaves of a number times what it leaves of a column is below the last bit
                if (kColumnPieces == 1 && q == 1 && plane > 0) break;
                uint32_t b[2][4];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    load16(b[j], from + (j * kColumnPieces + (kColumnPieces == 1 ? 0 : q)) * 512);
                }
#pragma unroll
                for (int h = 0; h < 2; ++h) {
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const uint32_t rows[4] = {a[2 * m][q][2 * h], a[2 * m + 1][q][2 * h], a[2 * m][q][2 * h + 1],
                                                  a[2 * m + 1][q][2 * h + 1]};
#pragma unroll
                        for (int j = 0; j < 2; ++j) {
                            const uint32_t column[2] = {b[j][2 * h], b[j][2 * h + 1]};
                            Rows::multiply(dots[m][j], rows, column);
                        }
                    }
                }
            }
            const float weight = args.plane_weight[plane];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        float& sum = sums[m][2 * pair + j][e];
                        sum = Rows::fold(sum, dots[m][j][e], weight);
                    }
                }
            }
        }
    }
}

/// What a row's sums are multiplied by, and its status.
template <class Rows>
__device__ __forceinline__ float row_factor(const ScoreRowsArgs& args, int64_t row, typename Rows::Square square,
                                            uint8_t& status) {
    status = 0;
    if (row >= args.n) return 0.0f;
    if constexpr (Rows::kQuantised) {
        const float scale = args.scales[row];
        if (Rows::kFormat == kRowsInt1) square = args.codes;
        if (!(scale - scale == 0.0f)) {
            status = kStatusNonfinite;
            return __uint_as_float(0x7fc00000u);
        }
        if (scale == 0.0f || square == 0) {
            status = kStatusZero;
            return 0.0f;
        }
    } else if (!(square >= 1e-30f && square <= 1e30f)) {
        status = kStatusAgain;
        return 0.0f;
    }
    return static_cast<float>(args.weight / sqrt(static_cast<double>(square)));
}

template <class Rows, int kTiles>
__device__ __forceinline__ void finish_rows(Sums<kTiles>& sums, typename Rows::Square (&squares)[4], int64_t tile,
                                            const ScoreRowsArgs& args) {
    const int thread = static_cast<int>(threadIdx.x), t = thread & 3;
    const float2* const column_scale = reinterpret_cast<const float2*>(args.column_scale);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        squares[i] += __shfl_xor_sync(kAllLanes, squares[i], 1);
        squares[i] += __shfl_xor_sync(kAllLanes, squares[i], 2);
        const int64_t row = tile * kScoreRowsAtOnce + thread / 32 * 32 + 8 * i + (thread & 31) / 4;
        uint8_t status;
        const float factor = row_factor<Rows>(args, row, squares[i], status);
        Best best{-INFINITY, args.all_columns};
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            if (j >= args.tiles) break;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int column = 8 * j + 2 * t + e;
                if (row < args.n && column < args.n_columns) {
                    const float2 scale = column_scale[column];  // step, where the sum begins
                    const float dot = sums[i / 2][j][2 * (i % 2) + e];
                    float score =
                        (Rows::kFormat == kRowsInt1 ? __fmaf_rn(-2.0f, dot, scale.y) : dot) * scale.x * factor;
                    if (args.totals != nullptr) {
                        float* const total = args.totals + row * args.totals_stride + args.first_column + column;
                        if (args.add) score += *total;
                        *total = score;
                    }
                    best.see(score, args.first_column + column);
                    sum += score;
                }
            }
        }
#pragma unroll
        for (int step = 1; step <= 2; ++step) {
            const float score = __shfl_xor_sync(kAllLanes, best.score, step);
            const int column = __shfl_xor_sync(kAllLanes, best.column, step);
            best.see(score, column);
            sum += __shfl_xor_sync(kAllLanes, sum, step);
        }
        if (t != 0 || row >= args.n) continue;
        args.status[row] = args.first_status ? status : static_cast<uint8_t>(args.status[row] | status);
        if (args.reduce == 0) continue;
        if (args.first_column > 0) {
            const int32_t before = args.best[row];
            const bool sums_up = args.reduce == 2;
            // all_columns: no score was a number, and none is to be read
            if (before < args.all_columns) {
                best.see(sums_up ? args.totals[row * args.totals_stride + before] : args.influence[row], before);
            }
            if (sums_up) sum += args.influence[row];
        }
        const bool last = args.first_column + args.n_columns == args.all_columns;
        const float mean = last ? sum / static_cast<float>(args.all_columns) : sum;
        args.influence[row] = args.reduce == 2 ? mean : best.score;
        args.best[row] = best.column;
    }
}

template <class Rows, int kTiles>
__device__ __forceinline__ void score(const ScoreRowsArgs& args) {
    GRADSIFT_DYNAMIC_SHARED(uint8_t, pool);
    constexpr int kUnits = units_of_stage(Rows::kFormat, kTiles);
    constexpr ScoreFormat kFormat = score_format(Rows::kFormat);
    using Copies = Pipeline<Rows, kTiles>;
    Copies copies(args, pool);
    const int thread = static_cast<int>(threadIdx.x);
    const int unit_bytes = copies.column_bytes / kUnits;
    for (int s = 0; s + 1 < args.stages; ++s) copies.copy_next();
    int slot = 0;
    for (int64_t tile = blockIdx.x; tile * kScoreRowsAtOnce < args.n; tile += gridDim.x) {
        Sums<kTiles> sums;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[0][j][e] = sums[1][j][e] = 0.0f;
        }
        typename Rows::Square squares[4] = {};
        for (int64_t s = 0; s < args.stages_of_row; ++s) {
            wait_for_copies(args.stages - 2);
            __syncthreads();  // all see the columns, and all have done with the stage that is copied into next
            copies.copy_next();
            const uint8_t* const stage = copies.stage(slot);
            const uint8_t* const mine = stage + thread / 32 * (Copies::kPieces * 2048) + (thread & 31) * 16;
#pragma unroll
            for (int u = 0; u < kUnits; ++u) {
                Operand a;
                const int piece = u * kFormat.row_pieces / kFormat.units_of_piece;
                Rows::expand(a, mine + piece * 512, Copies::kPieces * 512, u % kFormat.units_of_piece, squares);
                multiply_unit<Rows, kTiles>(sums, a, stage + Copies::kRowBytes + u * unit_bytes, args);
            }
            slot = slot + 1 == args.stages ? 0 : slot + 1;
        }
        finish_rows<Rows, kTiles>(sums, squares, tile, args);
    }
    cp_async_wait<0>();
}

}  // namespace
}  // namespace gradsift

#define GRADSIFT_SCORE_ROWS(format, Rows)                                            \
    GRADSIFT_KERNEL_OCC(score_rows_##format##_16, gradsift::ScoreRowsArgs, 256, 2) { \
        gradsift::score<gradsift::Rows, 2>(args);                                    \
    }                                                                                \
    GRADSIFT_KERNEL_OCC(score_rows_##format##_64, gradsift::ScoreRowsArgs, 256, 1) { \
        gradsift::score<gradsift::Rows, 8>(args);                                    \
    }

#define GRADSIFT_SCORE_WIDE(format, Rows)                                             \
    GRADSIFT_KERNEL_OCC(score_rows_##format##_128, gradsift::ScoreRowsArgs, 256, 1) { \
        gradsift::score<gradsift::Rows, 16>(args);                                    \
    }

GRADSIFT_SCORE_ROWS(float32, Float32Rows)
GRADSIFT_SCORE_WIDE(float32, Float32Rows)
GRADSIFT_SCORE_ROWS(float16, Float16Rows)
GRADSIFT_SCORE_WIDE(float16, Float16Rows)
GRADSIFT_SCORE_ROWS(bfloat16, Bfloat16Rows)
GRADSIFT_SCORE_WIDE(bfloat16, Bfloat16Rows)
GRADSIFT_SCORE_ROWS(int8, Int8Rows)
GRADSIFT_SCORE_WIDE(int8, Int8Rows)
GRADSIFT_SCORE_ROWS(int4, Int4Rows)
GRADSIFT_SCORE_WIDE(int4, Int4Rows)
GRADSIFT_SCORE_ROWS(int1, Int1Rows)
