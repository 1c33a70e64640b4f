// bfloat16 rows by vdpbf16ps. Columns that bfloat16 does not hold exactly become two of its numbers each, which
// together keep 16 bits of the float32; the second costs as much as the first.
#include <immintrin.h>

#include "common/dtype.h"
#include "score_rows/row_kernel.h"

namespace gradsift {
namespace {

constexpr int kGroupRows = 4, kGroupColumns = 6;  // 24 sums, four rows and a column in 32 registers
constexpr int64_t kLanes = 32;                    // numbers of a vector
constexpr int64_t kPiece = 1024;                  // as in float_rows.h, of the same bytes
constexpr int64_t kCachedPackBytes = 384 << 10;

inline int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/// Columns fall into as few groups as can be, of sizes that differ by one at most.
struct Groups {
    int64_t count, size, larger;
    explicit Groups(int64_t columns)
        : count((columns + kGroupColumns - 1) / kGroupColumns), size(columns / count), larger(columns % count) {}
    int64_t width(int64_t group) const { return size + (group < larger ? 1 : 0); }
};

inline int64_t packed_bytes(int64_t columns, int64_t dim) { return 4 * columns * rounded_up(dim, kLanes); }

inline bf16 rounded(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return static_cast<bf16>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/// As in float_rows.h, a vector of first numbers and one of second numbers a column. Returns how many there are: 1
/// where all second ones would be zero. Rounding up at the top of the range could give an infinity: callers keep
/// columns of moderate norm.
inline int pack(const PackColumns& call, uint8_t* packed) {
    int planes = 1;
    for (int64_t c = 0; c < call.columns && planes == 1; ++c) {
        const float* const from = call.targets + c * call.stride;
        for (int64_t k = 0; k < call.dim; ++k) {
            if (to_float(rounded(from[k])) != from[k]) planes = 2;
        }
    }
    const Groups groups(call.columns);
    bf16* to = reinterpret_cast<bf16*>(packed);
    for (int64_t begin = 0; begin < call.dim; begin += kPiece) {
        const int64_t end = begin + kPiece < call.dim ? begin + kPiece : call.dim;
        int64_t first = 0;
        for (int64_t g = 0; g < groups.count; ++g) {
            const int64_t width = groups.width(g);
            for (int64_t k = begin; k < end; k += kLanes) {
                for (int64_t c = first; c < first + width; ++c) {
                    const float* const from = call.targets + c * call.stride + k;
                    for (int64_t l = 0; l < kLanes; ++l) {
                        const float value = k + l < end ? from[l] : 0.0f;
                        to[l] = rounded(value);
                        if (planes == 2) to[kLanes + l] = rounded(value - to_float(to[l]));
                    }
                    to += planes * kLanes;
                }
            }
            first += width;
        }
    }
    return planes;
}

inline __m512bh load(const bf16* from) { return (__m512bh)_mm512_loadu_si512(from); }

/// to[i] += the sum of the lanes of v[i].
inline void add_sums4(const __m512 (&v)[4], float* to) {
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    // each 128 bits hold a sum of every vector
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), quarter));
}

inline void add_squares(const bf16* const* rows, int64_t vectors, float* squares) {
    __m512 sums[kGroupRows];
    for (int r = 0; r < kGroupRows; ++r) sums[r] = _mm512_setzero_ps();
    for (int64_t v = 0; v < vectors; ++v) {
        for (int r = 0; r < kGroupRows; ++r) {
            const __m512bh x = load(rows[r] + v * kLanes);
            sums[r] = _mm512_dpbf16_ps(sums[r], x, x);
        }
    }
    add_sums4(sums, squares);
}

template <int kColumns, int kPlanes>
inline void score_group(const bf16* const* rows, const bf16* columns, int64_t vectors, float* dots) {
    __m512 sums[kColumns][kGroupRows];
    for (int c = 0; c < kColumns; ++c) {
        for (int r = 0; r < kGroupRows; ++r) sums[c][r] = _mm512_setzero_ps();
    }
    for (int64_t v = 0; v < vectors; ++v) {
        __m512bh x[kGroupRows];
        for (int r = 0; r < kGroupRows; ++r) x[r] = load(rows[r] + v * kLanes);
        for (int plane = 0; plane < kPlanes; ++plane) {
            for (int c = 0; c < kColumns; ++c) {
                const __m512bh y = load(columns + ((v * kColumns + c) * kPlanes + plane) * kLanes);
                for (int r = 0; r < kGroupRows; ++r) sums[c][r] = _mm512_dpbf16_ps(sums[c][r], x[r], y);
            }
        }
    }
    for (int c = 0; c < kColumns; ++c) add_sums4(sums[c], dots + c * kTileRows);
}

template <int kColumns, int kPlanes>
inline void score_width(int64_t width, const bf16* const* rows, const bf16* columns, int64_t vectors, float* dots) {
    if constexpr (kColumns > 1) {
        if (width < kColumns) return score_width<kColumns - 1, kPlanes>(width, rows, columns, vectors, dots);
    }
    score_group<kColumns, kPlanes>(rows, columns, vectors, dots);
}

inline void ask_for(const uint8_t* at, int64_t bytes) {
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(at + b, 0, 2);
}

template <int kPlanes>
void score_tile(const ScoreTile& tile) {
    const Groups groups(tile.columns);
    const bool cached = kPlanes * tile.columns * tile.dim * 2 <= kCachedPackBytes;
    const int64_t at_once = cached ? kGroupRows : kTileRows;
    const int64_t padded_rows = rounded_up(tile.count, kGroupRows);
    for (int64_t c = 0; c < tile.columns; ++c) {
        for (int64_t r = 0; r < padded_rows; ++r) tile.dots[c * kTileRows + r] = 0.0f;
    }
    if (tile.squares != nullptr) {
        for (int64_t r = 0; r < padded_rows; ++r) tile.squares[r] = 0.0f;
    }
    const auto row_at = [&](int64_t r) {
        return tile.rows + (r < tile.count ? r : tile.count - 1) * tile.stride_bytes;
    };
    for (int64_t first = 0; first < tile.count; first += at_once) {
        const int64_t stop = first + at_once < tile.count ? first + at_once : tile.count;
        for (int64_t begin = 0; begin < tile.dim; begin += kPiece) {
            const int64_t count = begin + kPiece < tile.dim ? kPiece : tile.dim - begin;
            const int64_t padded = rounded_up(count, kLanes), vectors = padded / kLanes;
            for (int64_t r0 = first; r0 < stop; r0 += kGroupRows) {
                const bf16* rows[kGroupRows];
                for (int r = 0; r < kGroupRows; ++r) {
                    rows[r] = reinterpret_cast<const bf16*>(row_at(r0 + r)) + begin;
                    if (padded != count) {
                        bf16* const copy = reinterpret_cast<bf16*>(tile.scratch) + r * kPiece;
                        __builtin_memset(copy + padded - kLanes, 0, kLanes * sizeof(bf16));
                        __builtin_memcpy(copy, rows[r], static_cast<size_t>(count) * sizeof(bf16));
                        rows[r] = copy;
                    }
                    // what is read after these four pieces
                    const uint8_t* next = nullptr;
                    if (r0 + kGroupRows < stop) {
                        next = row_at(r0 + kGroupRows + r) + begin * 2;
                    } else if (begin + kPiece < tile.dim) {
                        next = row_at(first + r) + (begin + kPiece) * 2;
                    } else if (stop < tile.count) {
                        next = row_at(stop + r);
                    } else if (tile.ahead != nullptr) {
                        next = tile.ahead + r * tile.stride_bytes;
                    }
                    if (next != nullptr) ask_for(next, count * 2);
                }
                if (tile.squares != nullptr) add_squares(rows, vectors, tile.squares + r0);
                const bf16* columns = reinterpret_cast<const bf16*>(tile.packed) + kPlanes * begin * tile.columns;
                int64_t c = 0;
                for (int64_t g = 0; g < groups.count; ++g) {
                    const int64_t width = groups.width(g);
                    score_width<kGroupColumns, kPlanes>(width, rows, columns, vectors, tile.dots + c * kTileRows + r0);
                    columns += kPlanes * width * padded;
                    c += width;
                }
            }
        }
    }
}

void score_bfloat16_rows(const ScoreTile& tile) {
    if (tile.variant == 1) {
        score_tile<1>(tile);
    } else {
        score_tile<2>(tile);
    }
}

}  // namespace

RowKernel bfloat16_rows_avx512bf16(RowFormat) { return {packed_bytes, pack, score_bfloat16_rows}; }

}  // namespace gradsift
