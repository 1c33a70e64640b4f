#include "quantise/quantise.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "common/check.h"
#include "common/isa_table.h"
#include "common/parallel.h"
#include "common/philox.h"
#include "common/slices.h"
#include "quantise/quantise_kernel.h"

namespace gradsift {
namespace {

constexpr IsaTable<QuantiseFn> kQuantise = {
    .scalar = quantise_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = quantise_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = quantise_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = quantise_avx512,
#endif
};

constexpr IsaTable<DequantiseFn> kDequantise = {
    .scalar = dequantise_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = dequantise_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = dequantise_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = dequantise_avx512,
#endif
};

constexpr int64_t kRowsAtOnce = 8;
constexpr uint32_t kRotationKey = 0x48414441;

struct Codes {
    double clip, largest;
};

Codes codes_of(int bits) {
    require(bits == 8 || bits == 4 || bits == 1, "bits: expected 8, 4 or 1, got ", bits);
    if (bits == 8) return {4.5, 127};
    if (bits == 4) return {2.7, 7};
    return {1, 1};
}

void check_counts(int64_t rows, int threads) {
    require(rows >= 0, "n_rows: expected a count >= 0, got ", rows);
    require(threads >= 1, "threads: expected a count >= 1, got ", threads);
}

int64_t groups(int64_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce; }

}  // namespace

std::vector<uint32_t> rotation_signs(uint64_t seed, int64_t dim) {
    require(dim >= 256 && dim <= 65536 && std::has_single_bit(static_cast<uint64_t>(dim)),
            "proj_dim: expected a power of two from 256 to 65536, got ", dim);
    std::vector<uint32_t> signs(static_cast<size_t>(dim / 32));
    philox_lanes(0, 0, 0, 0, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32) ^ kRotationKey, dim / 128,
                 reinterpret_cast<uint32_t (*)[4]>(signs.data()));
    return signs;
}

void quantise_rows(const QuantiseRows& call) {
    const int64_t rows = call.rows.rows, dim = call.rows.cols, row_bytes = dim * call.bits / 8;
    const Codes codes = codes_of(call.bits);
    check_counts(rows, call.threads);
    const QuantiseFn kernel = kQuantise.pick(active_isa());
    const std::vector<uint32_t> signs = rotation_signs(call.seed, dim);
    parallel_for(groups(rows), call.threads, [&](int64_t group) {
        const int64_t first = group * kRowsAtOnce;
        QuantiseSlice slice{};
        slice.rows = call.rows.row(first);
        slice.row_stride = call.rows.row_stride;
        slice.count = std::min(kRowsAtOnce, rows - first);
        slice.dim = dim;
        slice.bits = call.bits;
        slice.clip = codes.clip;
        slice.largest = codes.largest;
        slice.signs = signs.data();
        slice.codes = call.codes + first * row_bytes;
        slice.scales = call.scales + first;
        slice.norms = call.norms + first;
        slice.scratch = thread_scratch(dim);
        kernel(slice);
    });
}

void dequantise_rows(const DequantiseRows& call) {
    const int64_t rows = call.rows.rows, dim = call.rows.cols;
    codes_of(call.bits);
    check_counts(rows, call.threads);
    const DequantiseFn kernel = kDequantise.pick(active_isa());
    const std::vector<uint32_t> signs = rotation_signs(call.seed, dim);
    parallel_for(groups(rows), call.threads, [&](int64_t group) {
        const int64_t first = group * kRowsAtOnce;
        DequantiseSlice slice{};
        slice.codes = call.codes.row(first);
        slice.code_stride = call.codes.row_stride;
        slice.scales = call.scales + first;
        slice.count = std::min(kRowsAtOnce, rows - first);
        slice.dim = dim;
        slice.bits = call.bits;
        slice.signs = signs.data();
        slice.rows = call.rows.row(first);
        slice.row_stride = call.rows.row_stride;
        slice.scratch = thread_scratch(dim);
        kernel(slice);
    });
}

}  // namespace gradsift
