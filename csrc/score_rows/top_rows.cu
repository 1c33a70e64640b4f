// The best k rows of a scan, kept while it runs: rows above a threshold are added in their order, and what has gathered
// is cut to k now and then. No atomics on order: the same rows in the same places whatever runs first.
#include "cuda/device.h"
#include "score_rows/top_rows_args.h"

namespace gradsift {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

/// Rises with the score; 0 for NaN; −0 counts as +0.
__device__ __forceinline__ uint32_t key_of(float score) {
    if (score != score) return 0;
    const uint32_t bits = __float_as_uint(score + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// How many threads before this one have `mine`, and how many of the block do. `part` holds a number a warp, and one.
template <int kThreads>
__device__ __forceinline__ int place_in_block(bool mine, int* part, int& all) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread & 31;
    const unsigned votes = __ballot_sync(kAllLanes, mine);
    __syncthreads();  // part has been read
    if (lane == 0) part[thread / 32] = __popc(votes);
    __syncthreads();
    int before = __popc(votes & ((1u << lane) - 1));
    all = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
        if (w < thread / 32) before += part[w];
        all += part[w];
    }
    return before;
}

__device__ __forceinline__ void count_rows(const TopRowsArgs& args, int* part) {
    const uint32_t threshold = args.state->threshold;
    const int64_t first = int64_t{blockIdx.x} * kTopRows;
    int mine = 0;
    for (int i = static_cast<int>(threadIdx.x); i < kTopRows; i += kTopThreads) {
        mine += first + i < args.n && key_of(args.influence[first + i]) > threshold;
    }
    for (int step = 16; step > 0; step /= 2) mine += __shfl_xor_sync(kAllLanes, mine, step);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    int all = 0;
    for (int w = 0; w < kTopThreads / 32; ++w) all += part[w];
    args.counts[blockIdx.x] = all;
}

__device__ __forceinline__ void add_rows(const TopRowsArgs& args, int* part) {
    const uint32_t threshold = args.state->threshold;
    int64_t to = args.state->count;
    for (int64_t b = 0; b < int64_t{blockIdx.x}; ++b) to += args.counts[b];
    const int64_t first = int64_t{blockIdx.x} * kTopRows;
    for (int i = 0; i < kTopRows; i += kTopThreads) {
        const int64_t row = first + i + threadIdx.x;
        const float score = row < args.n ? args.influence[row] : 0.0f;
        const bool mine = row < args.n && key_of(score) > threshold;
        int all;
        const int64_t at = to + place_in_block<kTopThreads>(mine, part, all);
        if (mine) {
            args.kept_influence[at] = score + 0.0f;
            args.kept_row[at] = args.first_row + row;
            args.kept_best[at] = args.best[row];
        }
        to += all;
    }
}

/// The key of the k-th best, byte by byte from the highest, and how many of that key are among the best k.
__device__ __forceinline__ uint32_t kth_key(const TopRowsArgs& args, int64_t count, int* digits, int64_t& of_key) {
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t found = 0;
    int64_t wanted = args.k;  // how many of those that begin with `found`
    for (int shift = 24; shift >= 0; shift -= 8) {
        __syncthreads();
        if (thread < 256) digits[thread] = 0;
        __syncthreads();
        const uint32_t above = shift == 24 ? 0 : ~0u << (shift + 8);
        for (int64_t i = thread; i < count; i += kTopCutThreads) {
            const uint32_t key = key_of(args.kept_influence[i]);
            if ((key & above) == found) atomicAdd(&digits[key >> shift & 255], 1);
        }
        __syncthreads();
        int digit = 255;  // every thread adds up alike
        for (; wanted > digits[digit]; --digit) wanted -= digits[digit];
        found |= static_cast<uint32_t>(digit) << shift;
    }
    of_key = wanted;
    return found;
}

__device__ __forceinline__ void cut(const TopRowsArgs& args, int* part, int* digits) {
    const int thread = static_cast<int>(threadIdx.x);
    int64_t count = args.state->count;
    for (int64_t b = 0; b < args.blocks; ++b) count += args.counts[b];
    if (count > args.room && count > args.k) {
        int64_t of_key;
        const uint32_t key = kth_key(args, count, digits, of_key);
        int64_t kept = 0, equal = 0;
        for (int64_t first = 0; first < count; first += kTopCutThreads) {
            const int64_t i = first + thread;
            const float score = i < count ? args.kept_influence[i] : 0.0f;
            const int64_t row = i < count ? args.kept_row[i] : 0;
            const int32_t best = i < count ? args.kept_best[i] : 0;
            const uint32_t mine = i < count ? key_of(score) : 0;
            int all_equal, all;
            const int64_t rank = equal + place_in_block<kTopCutThreads>(mine == key, part, all_equal);
            const bool stays = mine > key || (mine == key && rank < of_key);
            // behind its barriers all have read, and what is written lies no later than what was read
            const int64_t at = kept + place_in_block<kTopCutThreads>(stays, part, all);
            if (stays) {
                args.kept_influence[at] = score;
                args.kept_row[at] = row;
                args.kept_best[at] = best;
            }
            equal += all_equal;
            kept += all;
        }
        count = kept;
        if (thread == 0) args.state->threshold = key;
    }
    __syncthreads();
    if (thread == 0) args.state->count = count;
}

}  // namespace
}  // namespace gradsift

GRADSIFT_KERNEL(top_rows_count, gradsift::TopRowsArgs, 256) {
    GRADSIFT_SHARED(int, part, gradsift::kTopThreads / 32);
    gradsift::count_rows(args, part);
}

GRADSIFT_KERNEL(top_rows_add, gradsift::TopRowsArgs, 256) {
    GRADSIFT_SHARED(int, part, gradsift::kTopThreads / 32);
    gradsift::add_rows(args, part);
}

GRADSIFT_KERNEL(top_rows_cut, gradsift::TopRowsArgs, 1024) {
    GRADSIFT_SHARED(int, part, gradsift::kTopCutThreads / 32);
    GRADSIFT_SHARED(int, digits, 256);
    gradsift::cut(args, part, digits);
}
