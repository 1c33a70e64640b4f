// Rows to codes and back: every float operation as docs/datastore-format.md orders it, so that bytes are those of a
// CPU.
#include "cuda/device.h"
#include "cuda/philox_device.h"
#include "quantise/quantise_args.h"

namespace gradsift {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = kQuantiseThreads;

__device__ __forceinline__ int padded(int i) { return i + (i >> 5); }

/// The signs of D, a bit each, by all threads of a block.
__device__ __forceinline__ void draw_signs(uint32_t* signs, int64_t dim, const uint32_t (&key)[2]) {
    for (int block = static_cast<int>(threadIdx.x); block < dim / 128; block += kThreads) {
        const uint4 words = cuda::philox(0, 0, 0, static_cast<uint32_t>(block), key[0], key[1]);
        signs[4 * block] = words.x;
        signs[4 * block + 1] = words.y;
        signs[4 * block + 2] = words.z;
        signs[4 * block + 3] = words.w;
    }
}

__device__ __forceinline__ float flipped(float value, const uint32_t* signs, int64_t i) {
    return __uint_as_float(__float_as_uint(value) ^ (signs[i / 32] >> (i % 32) << 31));
}

/// log2(kCount) steps of the transform: pairs h, 2·h, … apart.
template <int kCount>
__device__ __forceinline__ void stages(float* y, int length, int h) {
    for (int group = static_cast<int>(threadIdx.x); group < length / kCount; group += kThreads) {
        const int first = group / h * (h * kCount) + group % h;
        float v[kCount];
#pragma unroll
        for (int k = 0; k < kCount; ++k) v[k] = y[padded(first + k * h)];
#pragma unroll
        for (int step = 1; step < kCount; step *= 2) {
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                if ((k & step) != 0) continue;
                const float a = v[k], b = v[k + step];
                v[k] = a + b;
                v[k + step] = a - b;
            }
        }
#pragma unroll
        for (int k = 0; k < kCount; ++k) y[padded(first + k * h)] = v[k];
    }
    __syncthreads();
}

/// h = 1, 2, 4, …, length / 2, on shared memory. Begins and ends with what all threads see.
__device__ __forceinline__ void transform(float* y, int length) {
    int h = 1;
    for (; 16 * h <= length; h *= 16) stages<16>(y, length, h);
    if (8 * h == length) stages<8>(y, length, h);
    if (4 * h == length) stages<4>(y, length, h);
    if (2 * h == length) stages<2>(y, length, h);
}

/// ‖x‖: sixteen sums in float64, then in pairs. By one warp, whose halves do the same.
__device__ __forceinline__ double row_norm(const float* x, int64_t dim) {
    constexpr int kAhead = 8;
    const float* const mine = x + (threadIdx.x & 15);
    double sum = 0.0;
    for (int64_t at = 0; at < dim; at += 16 * kAhead) {
        double v[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k) v[k] = mine[at + 16 * k];
#pragma unroll
        for (int k = 0; k < kAhead; ++k) sum = __dadd_rn(sum, __dmul_rn(v[k], v[k]));
    }
    for (int step = 1; step < 16; step *= 2) sum = __dadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
    return sqrt(sum);
}

/// The transformed numbers `i` of a row: in shared memory, or, of long rows, as the last step makes them of both
/// halves.
struct Rotated {
    const float* y;
    const float* half;  // null: the row is short
    __device__ __forceinline__ float at(int64_t i) const {
        if (half == nullptr) return y[padded(static_cast<int>(i))];
        const int low = static_cast<int>(i & (kQuantiseAtOnce - 1));
        const float a = half[low], b = y[padded(low)];
        return i < kQuantiseAtOnce ? a + b : a - b;
    }
};

/// `load(i)` is number i before the transform. Of long rows the first half is put aside.
template <class Load>
__device__ __forceinline__ Rotated rotate(float* y, float* half, int64_t dim, Load load) {
    const int length = static_cast<int>(dim < kQuantiseAtOnce ? dim : kQuantiseAtOnce);
    for (int64_t first = 0; first < dim; first += length) {
        for (int i = static_cast<int>(threadIdx.x); i < length; i += kThreads) y[padded(i)] = load(first + i);
        __syncthreads();
        transform(y, length);
        if (first + length < dim) {
            for (int i = static_cast<int>(threadIdx.x); i < length; i += kThreads) half[i] = y[padded(i)];
            __syncthreads();
        }
    }
    return {y, dim > length ? half : nullptr};
}

__device__ __forceinline__ int code_of(float y, float per_step, float largest) {
    return __float2int_rn(fminf(fmaxf(__fmul_rn(y, per_step), -largest), largest));
}

__device__ __forceinline__ void pack(const Rotated& y, int bits, int64_t dim, float per_step, uint8_t* codes) {
    const int thread = static_cast<int>(threadIdx.x);
    if (bits == 8) {
        for (int64_t i = thread; i < dim; i += kThreads) {
            codes[i] = static_cast<uint8_t>(code_of(y.at(i), per_step, 127.0f));
        }
    } else if (bits == 4) {
        for (int64_t i = thread; i < dim / 2; i += kThreads) {
            const int low = code_of(y.at(2 * i), per_step, 7.0f), high = code_of(y.at(2 * i + 1), per_step, 7.0f);
            codes[i] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
        }
    } else {
        for (int64_t first = thread - (thread & 31); first < dim; first += kThreads) {
            const unsigned word = __ballot_sync(kAllLanes, y.at(first + (thread & 31)) < 0.0f);
            if ((thread & 31) < 4) codes[first / 8 + (thread & 31)] = static_cast<uint8_t>(word >> 8 * (thread & 31));
        }
    }
}

__device__ __forceinline__ void quantise(const QuantiseArgs& args, float* y, double* shared_norm) {
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t held = args.dim < kQuantiseAtOnce ? args.dim : kQuantiseAtOnce;
    const int64_t row_bytes = args.dim * args.bits / 8;
    uint32_t* const signs = reinterpret_cast<uint32_t*>(y + held + held / 32);
    draw_signs(signs, args.dim, args.key);
    for (int64_t row = blockIdx.x; row < args.n; row += gridDim.x) {
        const float* const x = args.rows + row * args.row_stride;
        uint8_t* const codes = args.codes + row * row_bytes;
        __syncthreads();  // the last row is written, and the signs are drawn
        if (thread < 32) {
            const double norm = row_norm(x, args.dim);
            if (thread == 0) *shared_norm = norm;
        }
        __syncthreads();
        const double norm = *shared_norm;
        const bool finite = norm - norm == 0.0;
        if (thread == 0) args.norms[row] = finite ? norm : __longlong_as_double(0x7ff8000000000000);
        if (!(norm >= 0x1p-100 && norm <= 0x1p100)) {
            if (thread == 0) args.scales[row] = norm == 0.0 ? 0.0f : __uint_as_float(0x7fc00000u);
            for (int64_t i = thread; i < row_bytes; i += kThreads) codes[i] = 0;
            continue;
        }
        const double step = __dmul_rn(args.clip, norm);
        if (thread == 0) {
            args.scales[row] = static_cast<float>(step / (static_cast<double>(args.dim) * args.largest));
        }
        const float per_step = static_cast<float>(args.largest / step);
        const Rotated rotated = rotate(y, args.half + blockIdx.x * kQuantiseAtOnce, args.dim,
                                       [&](int64_t i) { return flipped(x[i], signs, i); });
        pack(rotated, args.bits, args.dim, per_step, codes);
    }
}

__device__ __forceinline__ float number_of(const uint8_t* codes, int bits, int64_t i) {
    if (bits == 8) return static_cast<int8_t>(codes[i]);
    if (bits == 4) return static_cast<float>(((codes[i / 2] >> (i % 2 * 4) & 15) ^ 8) - 8);
    return codes[i / 8] >> (i % 8) & 1 ? -1.0f : 1.0f;
}

__device__ __forceinline__ void dequantise(const DequantiseArgs& args, float* y) {
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t held = args.dim < kQuantiseAtOnce ? args.dim : kQuantiseAtOnce;
    uint32_t* const signs = reinterpret_cast<uint32_t*>(y + held + held / 32);
    draw_signs(signs, args.dim, args.key);
    for (int64_t row = blockIdx.x; row < args.n; row += gridDim.x) {
        const uint8_t* const codes = args.codes + row * args.code_stride;
        float* const out = args.rows + row * args.row_stride;
        const float scale = args.scales[row];
        __syncthreads();  // the last row is written, and the signs are drawn
        if (!(scale < 0.0f || scale > 0.0f)) {
            const float all = scale == 0.0f ? 0.0f : __uint_as_float(0x7fc00000u);
            for (int64_t i = thread; i < args.dim; i += kThreads) out[i] = all;
            continue;
        }
        const Rotated sums = rotate(y, args.half + blockIdx.x * kQuantiseAtOnce, args.dim,
                                    [&](int64_t i) { return number_of(codes, args.bits, i); });
        for (int64_t i = thread; i < args.dim; i += kThreads) {
            out[i] = flipped(__fmul_rn(sums.at(i), scale), signs, i);
        }
    }
}

}  // namespace
}  // namespace gradsift

GRADSIFT_KERNEL_OCC(quantise_rows, gradsift::QuantiseArgs, 256, 4) {
    GRADSIFT_SHARED(double, norm, 1);
    GRADSIFT_DYNAMIC_SHARED(float, pool);
    gradsift::quantise(args, pool, norm);
}

GRADSIFT_KERNEL_OCC(dequantise_rows, gradsift::DequantiseArgs, 256, 4) {
    GRADSIFT_DYNAMIC_SHARED(float, pool);
    gradsift::dequantise(args, pool);
}
