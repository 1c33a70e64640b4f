// Stored rows as the tensor cores take them, format by format. Read by score_rows.cu alone.
#pragma once
#include "cuda/device.h"
#include "score_rows/score_rows_args.h"

namespace gradsift {
namespace {

using namespace gradsift::cuda;

/// Four rows of a lane, two pieces of 16 bytes each, as the tensor cores take them. Rows are 8 apart.
using Operand = uint32_t[4][2][4];

__device__ __forceinline__ void load16(uint32_t (&to)[4], const uint8_t* from) {
    const uint4 v = *reinterpret_cast<const uint4*>(from);
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
}

struct FloatSums {
    using Dot = float;
    using Square = float;
    static constexpr bool kQuantised = false;
    static __device__ __forceinline__ Dot start() { return 0.0f; }
    static __device__ __forceinline__ float fold(float sum, Dot dot, float weight) {
        return __fmaf_rn(dot, weight, sum);
    }
};

/// Integer sums of a unit are below 2²² in magnitude: begun with the bits of 1.5 · 2²³, they end as those of a float.
struct IntegerSums {
    using Dot = int32_t;
    using Square = int32_t;
    static constexpr bool kQuantised = true;
    static __device__ __forceinline__ Dot start() { return 0x4B400000; }
    static __device__ __forceinline__ float fold(float sum, Dot dot, float weight) {
        return __fmaf_rn(__int_as_float(dot) - 12582912.0f, weight, sum);
    }
    static __device__ __forceinline__ void multiply(Dot (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_s8_16832(d, a, b);
    }
    static __device__ __forceinline__ void square(int32_t& sum, uint32_t word) {
        sum = __dp4a(static_cast<int>(word), static_cast<int>(word), sum);
    }
};

struct Float32Rows : FloatSums {
    static constexpr int kFormat = kRowsFloat32;
    /// To nearest in the ten bits of mantissa that tf32 has.
    static __device__ __forceinline__ uint32_t to_tf32(uint32_t bits) { return (bits + 0x1000u) & 0xffffe000u; }
    static __device__ __forceinline__ void expand(Operand& a, const uint8_t* from, int64_t row_step, int, float* sums) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            uint32_t raw[4];
            load16(raw, from + i * row_step);
            float sum = 0.0f;
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const float x = __uint_as_float(raw[r]);
                sum = __fmaf_rn(x, x, sum);
                a[i][0][r] = to_tf32(raw[r]);
                a[i][1][r] = to_tf32(__float_as_uint(x - __uint_as_float(a[i][0][r])));
            }
            sums[i] += sum;
        }
    }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_tf32_1688(d, a, b);
    }
};

template <class Half>
struct HalfRows : FloatSums {
    static __device__ __forceinline__ void expand(Operand& a, const uint8_t* from, int64_t row_step, int, float* sums) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float even = 0.0f, odd = 0.0f;
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                load16(a[i][q], from + i * row_step + q * 512);
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const float x = Half::low(a[i][q][r]), y = Half::high(a[i][q][r]);
                    even = __fmaf_rn(x, x, even);
                    odd = __fmaf_rn(y, y, odd);
                }
            }
            sums[i] += even + odd;
        }
    }
};

struct Float16Rows : HalfRows<Float16Rows> {
    static constexpr int kFormat = kRowsFloat16;
    static __device__ __forceinline__ float low(uint32_t pair) { return half_to_float(static_cast<uint16_t>(pair)); }
    static __device__ __forceinline__ float high(uint32_t pair) {
        return half_to_float(static_cast<uint16_t>(pair >> 16));
    }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_f16_16816(d, a, b);
    }
};

struct Bfloat16Rows : HalfRows<Bfloat16Rows> {
    static constexpr int kFormat = kRowsBfloat16;
    static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
    static __device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_bf16_16816(d, a, b);
    }
};

struct Int8Rows : IntegerSums {
    static constexpr int kFormat = kRowsInt8;
    static __device__ __forceinline__ void expand(Operand& a, const uint8_t* from, int64_t row_step, int,
                                                  int32_t* sums) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                load16(a[i][q], from + i * row_step + q * 512);
#pragma unroll
                for (int r = 0; r < 4; ++r) square(sums[i], a[i][q][r]);
            }
        }
    }
};

/// Codes as 16 times their value, which a byte holds: it cancels against the norm.
struct Int4Rows : IntegerSums {
    static constexpr int kFormat = kRowsInt4;
    static __device__ __forceinline__ void expand(Operand& a, const uint8_t* from, int64_t row_step, int,
                                                  int32_t* sums) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            uint32_t raw[4];
            load16(raw, from + i * row_step);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                a[i][0][r] = raw[r] << 4 & 0xf0f0f0f0u;
                a[i][1][r] = raw[r] & 0xf0f0f0f0u;
                square(sums[i], a[i][0][r]);
                square(sums[i], a[i][1][r]);
            }
        }
    }
};

/// Codes as 1 for −1 and 0 for +1: a dot product is the sum of the column less twice this one.
struct Int1Rows : IntegerSums {
    static constexpr int kFormat = kRowsInt1;
    static __device__ __forceinline__ void expand(Operand& a, const uint8_t* from, int64_t row_step, int unit,
                                                  int32_t*) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            uint32_t raw[4];
            load16(raw, from + i * row_step);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                a[i][0][r] = raw[r] >> (2 * unit) & 0x01010101u;
                a[i][1][r] = raw[r] >> (2 * unit + 1) & 0x01010101u;
            }
        }
    }
};

}  // namespace
}  // namespace gradsift
