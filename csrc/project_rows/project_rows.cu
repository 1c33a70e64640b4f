// Sketches of gradients that exist: every block streams some runs, of 128 entries of a row, and adds them to sketches
// in shared memory. A run reaches one line of 128 numbers; lines belong to warps, so no two warps add to one number,
// and a warp takes its runs in order: the same bits every time, without atomics.
#include "cuda/device.h"
#include "cuda/philox_device.h"
#include "project_rows/project_rows_args.h"

namespace gradsift {
namespace {

using namespace cuda;

constexpr uint32_t kMaskKey = 0x58535742u;
constexpr uint32_t kRepeatKey = 0x9E3779B9u;
constexpr uint32_t kElsewhere = 0xFFFFFFFFu;
constexpr int kLine = 128;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// Four neighbouring entries as they lie in memory, and as numbers. They are read as they lie, all of a step at once,
// and unpacked only when they are used: what is unpacked where it is read waits for memory there.
struct Float32 {
    using Type = float;
    using Raw = uint4;
    static __device__ __forceinline__ Raw load4(const float* at) { return load_stream16(at); }
    static __device__ __forceinline__ void unpack(const Raw& raw, float (&x)[4]) {
        x[0] = __uint_as_float(raw.x);
        x[1] = __uint_as_float(raw.y);
        x[2] = __uint_as_float(raw.z);
        x[3] = __uint_as_float(raw.w);
    }
    static __device__ __forceinline__ float unpack(float x) { return x; }
};

struct Bfloat16 {
    using Type = uint16_t;
    using Raw = uint2;
    static __device__ __forceinline__ Raw load4(const uint16_t* at) { return load_stream8(at); }
    static __device__ __forceinline__ void unpack(const Raw& raw, float (&x)[4]) {
        x[0] = __uint_as_float(raw.x << 16);
        x[1] = __uint_as_float(raw.x & 0xFFFF0000u);
        x[2] = __uint_as_float(raw.y << 16);
        x[3] = __uint_as_float(raw.y & 0xFFFF0000u);
    }
    static __device__ __forceinline__ float unpack(uint16_t x) { return bf16_to_float(x); }
};

struct Float16 {
    using Type = uint16_t;
    using Raw = uint2;
    static __device__ __forceinline__ Raw load4(const uint16_t* at) { return load_stream8(at); }
    static __device__ __forceinline__ void unpack(const Raw& raw, float (&x)[4]) {
        x[0] = half_to_float(static_cast<uint16_t>(raw.x));
        x[1] = half_to_float(static_cast<uint16_t>(raw.x >> 16));
        x[2] = half_to_float(static_cast<uint16_t>(raw.y));
        x[3] = half_to_float(static_cast<uint16_t>(raw.y >> 16));
    }
    static __device__ __forceinline__ float unpack(uint16_t x) { return half_to_float(x); }
};

/// Γ reads no moments.
struct None {
    using Type = char;
    struct Raw {};
};

/// Four entries, of which `left` exist; zeros for the others. Aligned ones begin at multiples of four entries, in
/// memory and in the row, so that all of them exist or none.
template <class Element, bool kAligned>
struct Four {
    typename Element::Raw raw;

    __device__ __forceinline__ void load(const typename Element::Type* at, int left) {
        raw = left > 0 ? Element::load4(at) : typename Element::Raw{};
    }
    __device__ __forceinline__ void unpack(float (&x)[4]) const { Element::unpack(raw, x); }
};

template <class Element>
struct Four<Element, false> {
    typename Element::Type raw[4];

    __device__ __forceinline__ void load(const typename Element::Type* at, int left) {
#pragma unroll
        for (int j = 0; j < 4; ++j) raw[j] = j < left ? at[j] : typename Element::Type{};
    }
    __device__ __forceinline__ void unpack(float (&x)[4]) const {
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] = Element::unpack(raw[j]);
    }
};

/// What a block knows of a run before it reads it.
struct Run {
    uint32_t place;   // line · 128 + the column mask, or kElsewhere
    uint32_t row_at;  // which row of memory
    uint32_t row;     // which row of the parameter
    uint32_t block;   // columns 128 · block …
};

__device__ __forceinline__ float sign_of(float g) { return g > 0.0f ? 1.0f : g < 0.0f ? -1.0f : g; }

__device__ __forceinline__ float map_with_moments(const ProjectRowsArgs& args, float g, float m, float v) {
    float power = args.second_v * v;
    if (args.second_g != 0.0f) power = fmaf(args.second_g * g, g, power);
    const float root = __fsqrt_rn(power + args.inner_eps) + args.eps;
    const float update = args.reads_first ? fmaf(args.first_g, g, args.first_m * m) : g;
    return __fdiv_rn(update, root);
}

/// Adds up four squares; in float64 where float32 does not hold them.
__device__ __forceinline__ double square_sum(const float (&x)[4]) {
    const float sum = fmaf(x[0], x[0], x[1] * x[1]) + fmaf(x[2], x[2], x[3] * x[3]);
    if (sum >= 0x1p-100f && sum <= 0x1p127f) return sum;
    double wide = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) wide += static_cast<double>(x[j]) * x[j];
    return wide;
}

__device__ __forceinline__ void swap(float& a, float& b, bool really) {
    const float was = a;
    a = really ? b : a;
    b = really ? was : b;
}

/// Draws the runs [first, first + kRowsBatch) of repeat `repeat`: half of the threads their signs, half their masks.
__device__ __forceinline__ void draw_runs(const ProjectRowsArgs& args, int64_t first, int64_t end, int repeat,
                                          int64_t sample_rows, const int64_t* row_ids, uint32_t part, Run* runs,
                                          uint4* signs) {
    const int slot = static_cast<int>(threadIdx.x) % kRowsBatch;
    const bool draws_masks = static_cast<int>(threadIdx.x) >= kRowsBatch;
    const int64_t number = first + slot;
    if (number >= end) {
        if (draws_masks) runs[slot].place = kElsewhere;
        return;
    }
    // Down the rows of a band of chunks first: they reach lines of every warp in turn.
    const auto blocks = static_cast<uint32_t>((args.cols + kLine - 1) / kLine);
    const uint32_t run = static_cast<uint32_t>(number), band_rows = 1u << args.chunk_rows_log2;
    const uint32_t band = run / (band_rows * blocks), within = run - band * band_rows * blocks;
    const auto rows_left = static_cast<uint32_t>(sample_rows - int64_t{band} * band_rows);
    const uint32_t height = rows_left < band_rows ? rows_left : band_rows;
    const uint32_t block = within / height, row_at = band * band_rows + (within - block * height);
    const uint32_t row = row_ids != nullptr ? static_cast<uint32_t>(row_ids[row_at]) : row_at;
    const uint32_t high = args.seed[1] ^ (kRepeatKey * static_cast<uint32_t>(repeat));
    if (!draws_masks) {
        signs[slot] = philox(args.param_id[0], args.param_id[1], row, block, args.seed[0], high);
        return;
    }
    const uint32_t mask =
        philox(args.param_id[0], args.param_id[1], row >> args.chunk_rows_log2, block, args.seed[0], high ^ kMaskKey).x;
    // mc, mr and q of the specification lie side by side: q · CR + (row XOR mr) is the line of the whole sketch.
    const uint32_t line_bits = static_cast<uint32_t>(args.proj_dim / kLine) - 1;
    const uint32_t line = ((mask >> 7) & line_bits) ^ (row & (band_rows - 1));
    const uint32_t part_lines = static_cast<uint32_t>(args.part_dim) / kLine;
    const bool here = line / part_lines == part;
    runs[slot] = {here ? (line % part_lines) * kLine + (mask & (kLine - 1)) : kElsewhere, row_at, row, block};
}

/// Reads kAhead runs of kSamples samples at once, then maps, signs and adds them one by one.
template <class Grad, class Moment, bool kAligned, int kSamples, int kAhead>
struct Stream {
    static constexpr bool kMoments = !__is_same(Moment, None);

    const ProjectRowsArgs& args;
    const typename Grad::Type* grads;  // of the first sample
    int samples;
    float* sketches;  // kSamples of part_dim numbers
    int lane;
    double (&norms)[kSamples][2];

    __device__ __forceinline__ void add(const Run (&runs)[kAhead], const uint32_t (&signs)[kAhead], int count,
                                        bool counts_norms) {
        Four<Grad, kAligned> grad[kAhead][kSamples];
        Four<Moment, kAligned> first[kAhead], second[kAhead];
        const auto* const firsts = static_cast<const typename Moment::Type*>(args.first);
        const auto* const seconds = static_cast<const typename Moment::Type*>(args.second);
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            const int64_t column = int64_t{runs[a].block} * kLine + 4 * lane;
            const int64_t rest = args.cols - column;
            const int left = a >= count ? 0 : rest < 4 ? static_cast<int>(rest) : 4;
            const auto* const from = grads + runs[a].row_at * args.row_stride + column;
#pragma unroll
            for (int s = 0; s < kSamples; ++s) {
                grad[a][s].load(from + s * args.sample_stride, s < samples ? left : 0);
            }
            const int64_t at = runs[a].row * args.cols + column;
            if constexpr (kMoments) {
                second[a].load(seconds + at, left);
                first[a].load(firsts + at, args.reads_first ? left : 0);
            }
        }
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            if (a >= count) break;
            add_run(runs[a], signs[a], grad[a], first[a], second[a], counts_norms);
            // The next run may reach the same line in other lanes.
            __syncwarp();
        }
    }

    __device__ __forceinline__ void add_run(const Run& run, uint32_t signs,
                                            const Four<Grad, kAligned> (&grad)[kSamples],
                                            const Four<Moment, kAligned>& first, const Four<Moment, kAligned>& second,
                                            bool counts_norms) {
        float m[4] = {}, v[4] = {};
        if constexpr (kMoments) {
            second.unpack(v);
            first.unpack(m);
        }
        const uint32_t mask = run.place % kLine;
        float* const line = sketches + (run.place - mask) + ((4 * lane) ^ (mask & ~3u));
#pragma unroll
        for (int s = 0; s < kSamples; ++s) {
            if (s >= samples) break;
            float x[4];
            grad[s].unpack(x);
            if (counts_norms) norms[s][0] += square_sum(x);
            if constexpr (kMoments) {
#pragma unroll
                for (int j = 0; j < 4; ++j) x[j] = map_with_moments(args, x[j], m[j], v[j]);
            } else if (args.map == RowsMap::kSign) {
#pragma unroll
                for (int j = 0; j < 4; ++j) x[j] = sign_of(x[j]);
            }
            // Of the gradient itself both norms are one, which project_slice sees to.
            if (counts_norms && (kMoments || args.map != RowsMap::kIdentity)) norms[s][1] += square_sum(x);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                x[j] = __uint_as_float(__float_as_uint(x[j]) ^ (signs << (31 - j) & 0x80000000u));
            }
            swap(x[0], x[1], mask & 1);
            swap(x[2], x[3], mask & 1);
            swap(x[0], x[2], mask & 2);
            swap(x[1], x[3], mask & 2);
            float4* const to = reinterpret_cast<float4*>(line + s * args.part_dim);
            float4 sum = *to;
            sum.x += x[0];
            sum.y += x[1];
            sum.z += x[2];
            sum.w += x[3];
            *to = sum;
        }
    }
};

/// The batch's runs whose lines belong to this warp, in order.
template <class Grad, class Moment, bool kAligned, int kSamples, int kAhead>
__device__ __forceinline__ void add_batch(Stream<Grad, Moment, kAligned, kSamples, kAhead>& stream, const Run* runs,
                                          const uint4* signs, int warp, bool counts_norms) {
    for (int group = 0; group < kRowsBatch; group += 32) {
        const uint32_t place = runs[group + stream.lane].place;
        uint32_t mine =
            __ballot_sync(kAllLanes, place != kElsewhere && static_cast<int>(place / kLine) % kRowsWarps == warp);
        while (mine != 0) {
            Run taken[kAhead];
            uint32_t bits[kAhead];
            int count = 0;
#pragma unroll
            for (int a = 0; a < kAhead; ++a) {
                if (mine == 0) break;
                const int slot = group + __ffs(static_cast<int>(mine)) - 1;
                mine &= mine - 1;
                taken[a] = runs[slot];
                const uint32_t word = reinterpret_cast<const uint32_t*>(signs + slot)[stream.lane / 8];
                bits[a] = word >> (4 * (stream.lane % 8));
                ++count;
            }
            stream.add(taken, bits, count, counts_norms);
        }
    }
}

/// Sums over the block in the order of its warps; thread 0 has them.
template <int kSamples>
__device__ __forceinline__ void reduce_norms(double (&norms)[kSamples][2], double* sums, int warp, int lane) {
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            double sum = norms[s][k];
#pragma unroll
            for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bits);
            if (lane == 0) sums[(warp * kSamples + s) * 2 + k] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            double sum = 0;
            for (int w = 0; w < kRowsWarps; ++w) sum += sums[(w * kSamples + s) * 2 + k];
            norms[s][k] = sum;
        }
    }
}

template <class Grad, class Moment, bool kAligned, int kSamples, int kAhead>
__device__ __forceinline__ void project_slice(const ProjectRowsArgs& args) {
    GRADSIFT_DYNAMIC_SHARED(float, sketches);
    GRADSIFT_SHARED(Run, runs, 2 * kRowsBatch);
    GRADSIFT_SHARED(uint4, signs, 2 * kRowsBatch);
    GRADSIFT_SHARED(double, norm_sums, kRowsWarps * kSamples * 2);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int64_t sample = int64_t{blockIdx.z} * kSamples;
    const int64_t here = args.samples - sample;
    const int samples = here < kSamples ? static_cast<int>(here) : kSamples;
    const int64_t listed = args.cu_seqlens != nullptr ? args.cu_seqlens[sample] : 0;
    const int64_t rows = args.cu_seqlens != nullptr ? args.cu_seqlens[sample + 1] - listed : args.rows;
    const RowsCut cut = rows_cut(rows, args.cols, args.proj_dim);
    const int64_t slice = blockIdx.x;
    if (slice >= cut.count) return;
    const int64_t begin = slice * cut.slice, end = begin + cut.slice < cut.runs ? begin + cut.slice : cut.runs;
    const int64_t* const row_ids = args.row_ids != nullptr ? args.row_ids + listed : nullptr;
    const uint32_t part = blockIdx.y;

    for (int k = thread; k < samples * args.part_dim; k += kRowsThreads) sketches[k] = 0.0f;
    double norms[kSamples][2] = {};
    const auto* const grads =
        static_cast<const typename Grad::Type*>(args.grads) + sample * args.sample_stride + listed * args.row_stride;
    Stream<Grad, Moment, kAligned, kSamples, kAhead> stream{args, grads, samples, sketches, lane, norms};
    const auto batches = static_cast<int>((end - begin + kRowsBatch - 1) / kRowsBatch) * args.nonzeros;
    const auto draw = [&](int batch) {
        const int64_t first = begin + int64_t{batch / args.nonzeros} * kRowsBatch;
        const int at = batch % 2 * kRowsBatch;
        draw_runs(args, first, end, batch % args.nonzeros, rows, row_ids, part, runs + at, signs + at);
    };
    if (batches > 0) draw(0);
    __syncthreads();
    for (int batch = 0; batch < batches; ++batch) {
        if (batch + 1 < batches) draw(batch + 1);
        const int at = batch % 2 * kRowsBatch;
        add_batch(stream, runs + at, signs + at, warp, args.norms != nullptr && batch % args.nonzeros == 0);
        __syncthreads();
    }

    if (args.map == RowsMap::kIdentity) {
#pragma unroll
        for (int s = 0; s < kSamples; ++s) norms[s][1] = norms[s][0];
    }
    if (args.norms != nullptr) reduce_norms(norms, norm_sums, warp, lane);
    for (int s = 0; s < samples; ++s) {
        const float* const sketch = sketches + s * args.part_dim;
        float* const to = args.direct ? args.out + (sample + s) * args.out_stride
                                      : args.partials + ((sample + s) * args.max_slices + slice) * args.proj_dim +
                                            int64_t{part} * args.part_dim;
        for (int k = thread; k < args.part_dim; k += kRowsThreads) {
            if (args.direct) {
                const float scaled = sketch[k] * args.scale;
                to[k] = args.accumulate ? to[k] + scaled : scaled;
            } else {
                to[k] = sketch[k];
            }
        }
    }
    if (args.norms == nullptr || thread != 0) return;
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
        if (s >= samples) break;
        double* const to =
            args.direct ? args.norms + (sample + s) * args.norm_stride
                        : args.partial_norms + (((sample + s) * args.max_slices + slice) * args.parts + part) * 2;
        for (int k = 0; k < 2; ++k) to[k] = args.direct && args.accumulate ? to[k] + norms[s][k] : norms[s][k];
    }
}

/// Partial sketches and norms of a sample, in the order of slices.
__device__ __forceinline__ void add_partials(const ProjectRowsArgs& args) {
    const int64_t sample = blockIdx.y;
    const int64_t rows = args.cu_seqlens != nullptr ? args.cu_seqlens[sample + 1] - args.cu_seqlens[sample] : args.rows;
    const int64_t slices = rows_cut(rows, args.cols, args.proj_dim).count;
    const int64_t at = int64_t{blockIdx.x} * kRowsThreads + threadIdx.x;
    const float* const from = args.partials + sample * args.max_slices * args.proj_dim + at;
    float sum = 0.0f;
    int64_t slice = 0;
    for (; slice + 8 <= slices; slice += 8) {
        float read[8];
#pragma unroll
        for (int k = 0; k < 8; ++k) read[k] = from[(slice + k) * args.proj_dim];
#pragma unroll
        for (int k = 0; k < 8; ++k) sum += read[k];
    }
    for (; slice < slices; ++slice) sum += from[slice * args.proj_dim];
    float* const to = args.out + sample * args.out_stride + at;
    const float scaled = sum * args.scale;
    *to = args.accumulate ? *to + scaled : scaled;

    if (args.norms == nullptr || at >= 2) return;
    const double* const squares = args.partial_norms + sample * args.max_slices * args.parts * 2 + at;
    double total = 0;
    for (int64_t k = 0; k < slices * args.parts; ++k) total += squares[2 * k];
    double* const norm = args.norms + sample * args.norm_stride + at;
    *norm = args.accumulate ? *norm + total : total;
}

}  // namespace

// Two samples at a time, one, and one whose rows or moments are not aligned. As many runs are read ahead as keep as
// many bytes in flight. How many blocks shall fit on an SM is said because ptxas, left to itself, spills for one block
// more.
#define PROJECT_ROWS_KERNELS(name, Grad, Moment, blocks)                                       \
    GRADSIFT_KERNEL_OCC(project_rows_##name##_2, ProjectRowsArgs, kRowsThreads, blocks) {      \
        project_slice<Grad, Moment, true, 2, 2>(args);                                         \
    }                                                                                          \
    GRADSIFT_KERNEL_OCC(project_rows_##name##_1, ProjectRowsArgs, kRowsThreads, blocks) {      \
        project_slice<Grad, Moment, true, 1, 4>(args);                                         \
    }                                                                                          \
    GRADSIFT_KERNEL_OCC(project_rows_##name##_ragged, ProjectRowsArgs, kRowsThreads, blocks) { \
        project_slice<Grad, Moment, false, 1, 2>(args);                                        \
    }
PROJECT_ROWS_KERNELS(f32, Float32, None, 3)
PROJECT_ROWS_KERNELS(bf16, Bfloat16, None, 3)
PROJECT_ROWS_KERNELS(f16, Float16, None, 3)
PROJECT_ROWS_KERNELS(f32_f32, Float32, Float32, 2)
PROJECT_ROWS_KERNELS(bf16_f32, Bfloat16, Float32, 2)
PROJECT_ROWS_KERNELS(f16_f32, Float16, Float32, 2)
PROJECT_ROWS_KERNELS(f32_bf16, Float32, Bfloat16, 2)
PROJECT_ROWS_KERNELS(bf16_bf16, Bfloat16, Bfloat16, 2)
PROJECT_ROWS_KERNELS(f16_bf16, Float16, Bfloat16, 2)
#undef PROJECT_ROWS_KERNELS

GRADSIFT_KERNEL(project_rows_add_partials, ProjectRowsArgs, kRowsThreads) { add_partials(args); }

}  // namespace gradsift
