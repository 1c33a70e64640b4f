#include "score_rows/formats.h"

#include <cstring>

#include "common/check.h"
#include "common/dtype.h"

namespace gradsift {
namespace {

template <class T>
void widen_row(const uint8_t* row, int64_t dim, float* out) {
    for (int64_t k = 0; k < dim; ++k) {
        T number;
        std::memcpy(&number, row + k * static_cast<int64_t>(sizeof number), sizeof number);
        out[k] = to_float(number);
    }
}

const RowFormatInfo kFloat32 = {.bits = 32,
                                .quantised = false,
                                .kernels =
                                    {
                                        .scalar = float_rows_scalar,
#if GRADSIFT_BUILD_NEON
                                        .neon = float_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
                                        .avx2 = float_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
                                        .avx512 = float_rows_avx512,
#endif
                                    },
                                .widen = widen_row<float>};

const RowFormatInfo kFloat16 = {.bits = 16,
                                .quantised = false,
                                .kernels =
                                    {
                                        .scalar = float_rows_scalar,
#if GRADSIFT_BUILD_NEON
                                        .neon = float_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
                                        .avx2 = float_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
                                        .avx512 = float_rows_avx512,
#endif
                                    },
                                .widen = widen_row<fp16>};

const RowFormatInfo kBfloat16 = {.bits = 16,
                                 .quantised = false,
                                 .kernels =
                                     {
                                         .scalar = float_rows_scalar,
#if GRADSIFT_BUILD_NEON
                                         .neon = float_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
                                         .avx2 = float_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
                                         .avx512 = float_rows_avx512,
#endif
#if GRADSIFT_BUILD_AVX512BF16
                                         .avx512bf16 = bfloat16_rows_avx512bf16,
#endif
                                     },
                                 .widen = widen_row<bf16>};

constexpr IsaTable<RowKernelFn> kCodeRows = {
    .scalar = code_rows_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = code_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = code_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = code_rows_avx512,
#endif
#if GRADSIFT_BUILD_AVX512VNNI
    .avx512vnni = code_rows_avx512vnni,
#endif
};

constexpr IsaTable<RowKernelFn> kSignRows = {
    .scalar = sign_rows_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = sign_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = sign_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = sign_rows_avx512,
#endif
#if GRADSIFT_BUILD_AVX512VNNI
    .avx512vnni = sign_rows_avx512vnni,
#endif
};

constexpr RowFormatInfo kInt8 = {.bits = 8, .quantised = true, .kernels = kCodeRows, .widen = nullptr};
constexpr RowFormatInfo kInt4 = {.bits = 4, .quantised = true, .kernels = kCodeRows, .widen = nullptr};
constexpr RowFormatInfo kInt1 = {.bits = 1, .quantised = true, .kernels = kSignRows, .widen = nullptr};

}  // namespace

const RowFormatInfo& row_format(RowFormat format) {
    switch (format) {
        case RowFormat::kFloat32:
            return kFloat32;
        case RowFormat::kFloat16:
            return kFloat16;
        case RowFormat::kBfloat16:
            return kBfloat16;
        case RowFormat::kInt8:
            return kInt8;
        case RowFormat::kInt4:
            return kInt4;
        case RowFormat::kInt1:
            return kInt1;
    }
    require(false, "row format: expected 1 float32, 2 float16, 3 bfloat16, 16 int8, 17 int4 or 18 int1, got ",
            static_cast<int>(format));
    return kFloat32;
}

}  // namespace gradsift
