#include "quantise/quantise_cuda.h"

#include <algorithm>
#include <bit>
#include <string>

#include "common/check.h"
#include "cuda/errors.h"
#include "quantise/quantise_args.h"

namespace gradsift {
namespace {

constexpr uint32_t kRotationKey = 0x48414441;

void check_sizes(int64_t rows, int64_t dim, int bits) {
    require(rows >= 0, "n_rows: expected a count >= 0, got ", rows);
    require(dim >= 256 && dim <= 65536 && std::has_single_bit(static_cast<uint64_t>(dim)),
            "proj_dim: expected a power of two from 256 to 65536, got ", dim);
    require(bits == 8 || bits == 4 || bits == 1, "bits: expected 8, 4 or 1, got ", bits);
}

/// Blocks of threads that the device runs at once, each of which takes row after row.
int64_t blocks_of(int device, int64_t rows, int64_t dim) {
    const cuda::DeviceInfo& info = cuda::device_info(device);
    const int64_t fit = std::clamp<int64_t>(info.shared_bytes / (quantise_shared_bytes(dim) + 1024), 1, 8);
    return std::min(rows, int64_t{info.multiprocessors} * fit);
}

cuda::Grid grid_of(int device, int64_t rows, int64_t dim) {
    const cuda::DeviceInfo& info = cuda::device_info(device);
    if (quantise_shared_bytes(dim) > info.shared_bytes) {  // sm_86, sm_89 and sm_120 from P = 32,768 on
        throw cuda::Unavailable("backend: expected " + std::to_string(quantise_shared_bytes(dim)) +
                                " bytes of shared memory a block, for rows of " + std::to_string(dim) +
                                " numbers, got " + std::to_string(info.shared_bytes) + " on device " +
                                std::to_string(device) + " (" + info.name + "); move the arrays to the CPU");
    }
    return {static_cast<unsigned>(blocks_of(device, rows, dim)), 1, 1, kQuantiseThreads,
            static_cast<size_t>(quantise_shared_bytes(dim))};
}

void set_key(uint32_t (&key)[2], uint64_t seed) {
    key[0] = static_cast<uint32_t>(seed);
    key[1] = static_cast<uint32_t>(seed >> 32) ^ kRotationKey;
}

}  // namespace

int64_t quantise_cuda_scratch(int device, int64_t rows, int64_t proj_dim) {
    if (proj_dim <= kQuantiseAtOnce || rows == 0) return 0;
    return blocks_of(device, rows, proj_dim) * kQuantiseAtOnce * int64_t{sizeof(float)};
}

void quantise_rows_cuda(const QuantiseRowsCuda& call) {
    const int64_t rows = call.rows.rows, dim = call.rows.cols;
    check_sizes(rows, dim, call.bits);
    if (rows == 0) return;
    const int device = call.place.device;
    cuda::check_pointer("rows", call.rows.data, device);
    cuda::check_pointer("codes", call.codes, device);
    cuda::check_pointer("scales", call.scales, device);
    cuda::check_pointer("norms", call.norms, device);
    if (dim > kQuantiseAtOnce) cuda::check_pointer("scratch", call.scratch, device);
    QuantiseArgs args{};
    args.rows = call.rows.data;
    args.row_stride = call.rows.row_stride;
    args.n = rows;
    args.dim = dim;
    args.bits = call.bits;
    args.clip = call.bits == 8 ? 4.5 : call.bits == 4 ? 2.7 : 1.0;
    args.largest = call.bits == 8 ? 127.0 : call.bits == 4 ? 7.0 : 1.0;
    set_key(args.key, call.seed);
    args.codes = call.codes;
    args.scales = call.scales;
    args.norms = call.norms;
    args.half = call.scratch;
    cuda::launch("quantise", "quantise_rows", call.place, grid_of(device, rows, dim), args);
}

void dequantise_rows_cuda(const DequantiseRowsCuda& call) {
    const int64_t rows = call.rows.rows, dim = call.rows.cols;
    check_sizes(rows, dim, call.bits);
    if (rows == 0) return;
    const int device = call.place.device;
    cuda::check_pointer("codes", call.codes.data, device);
    cuda::check_pointer("scales", call.scales, device);
    cuda::check_pointer("out", call.rows.data, device);
    if (dim > kQuantiseAtOnce) cuda::check_pointer("scratch", call.scratch, device);
    DequantiseArgs args{};
    args.codes = call.codes.data;
    args.code_stride = call.codes.row_stride;
    args.scales = call.scales;
    args.n = rows;
    args.dim = dim;
    args.bits = call.bits;
    set_key(args.key, call.seed);
    args.rows = call.rows.data;
    args.row_stride = call.rows.row_stride;
    args.half = call.scratch;
    cuda::launch("quantise", "dequantise_rows", call.place, grid_of(device, rows, dim), args);
}

}  // namespace gradsift
