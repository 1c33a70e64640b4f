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

constexpr IsaTable<RowKernelFn> kFloatRows = {
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
};

constexpr IsaTable<RowKernelFn> kBfloat16Rows = [] {
    IsaTable<RowKernelFn> kernels = kFloatRows;
#if GRADSIFT_BUILD_AVX512BF16
    kernels.avx512bf16 = bfloat16_rows_avx512bf16;
#endif
    return kernels;
}();

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

constexpr RowFormatInfo kFloat32 = {.quantised = false, .kernels = kFloatRows, .widen = widen_row<float>};
constexpr RowFormatInfo kFloat16 = {.quantised = false, .kernels = kFloatRows, .widen = widen_row<fp16>};
constexpr RowFormatInfo kBfloat16 = {.quantised = false, .kernels = kBfloat16Rows, .widen = widen_row<bf16>};
constexpr RowFormatInfo kCodes = {.quantised = true, .kernels = kCodeRows, .widen = nullptr};
constexpr RowFormatInfo kSigns = {.quantised = true, .kernels = kSignRows, .widen = nullptr};

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
        case RowFormat::kInt4:
            return kCodes;
        case RowFormat::kInt1:
            return kSigns;
    }
    require(false, "row format: expected 1 float32, 2 float16, 3 bfloat16, 16 int8, 17 int4 or 18 int1, got ",
            static_cast<int>(format));
    return kFloat32;
}

}  // namespace gradsift
