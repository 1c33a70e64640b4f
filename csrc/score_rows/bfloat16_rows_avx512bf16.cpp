// bfloat16 rows by vdpbf16ps. Columns that bfloat16 does not hold exactly become two of its numbers each, which
// together keep 16 bits of the float32; the second costs as much as the first.
#include "common/vec_avx512.h"
#include "score_rows/rows_tile.h"

namespace gradsift {
namespace {

inline bf16 rounded(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return static_cast<bf16>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

template <int kSplit>
struct Bfloat16Rows {
    using Stored = bf16;
    using Number = bf16;
    using X = __m512bh;
    using Sum = Vec;
    static constexpr int64_t kLanes = 32;
    static constexpr int kPlanes = kSplit;
    static constexpr int kGroupColumns = 6;  // 24 sums, four rows and a column in 32 registers

    static __m512bh widen(const bf16* from) { return load(from); }
    static __m512bh load(const bf16* from) { return (__m512bh)_mm512_loadu_si512(from); }
    /// Rounding up at the top of the range would give an infinity: columns are of moderate norm.
    static void split(float value, bf16* to) {
        to[0] = rounded(value);
        if (kPlanes == 2) to[kLanes] = rounded(value - to_float(to[0]));
    }
    static Vec zero() { return Vec::zero(); }
    static Vec mul_add(__m512bh x, __m512bh y, Vec sum) { return {_mm512_dpbf16_ps(sum.x, x, y)}; }
    static void add_sums4(const Vec (&sums)[4], float* to) { Vec::add_sums4(sums, to); }
};

int pack_split(const PackColumns& call, uint8_t* packed) {
    bool exact = true;
    for (int64_t c = 0; c < call.columns; ++c) {
        const float* const from = call.targets + c * call.stride;
        for (int64_t k = 0; k < call.dim; ++k) exact &= to_float(rounded(from[k])) == from[k];
    }
    return exact ? pack<Bfloat16Rows<1>>(call, packed) : pack<Bfloat16Rows<2>>(call, packed);
}

void score_split(const ScoreTile& tile) {
    if (tile.variant == 1) {
        score_tile<Bfloat16Rows<1>>(tile);
    } else {
        score_tile<Bfloat16Rows<2>>(tile);
    }
}

}  // namespace

RowKernel bfloat16_rows_avx512bf16(RowFormat) { return {packed_bytes<Bfloat16Rows<2>>, pack_split, score_split}; }

}  // namespace gradsift
