#include <immintrin.h>

#include "common/philox_list.h"

namespace gradsift {
namespace {

constexpr int kLanes = 8;

struct Product {
    __m256i high, low;
};

inline Product multiply(__m256i x, __m256i factor) {
    const __m256i even = _mm256_mul_epu32(x, factor);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
    return {_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA),
            _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA)};
}

inline __m256i xor3(__m256i a, __m256i b, uint32_t c) {
    return _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_set1_epi32((int)c));
}

inline __m256i load_up_to(const uint32_t* from, int64_t count) {
    uint32_t lanes[kLanes] = {};
    for (int l = 0; l < kLanes && l < count; ++l) lanes[l] = from[l];
    return _mm256_loadu_si256((const __m256i*)lanes);
}

}  // namespace

void philox_list_avx2(const PhiloxList& list) {
    const __m256i factors[2] = {_mm256_set1_epi32((int)0xD2511F53u), _mm256_set1_epi32((int)0xCD9E8D57u)};
    for (int64_t n = 0; n < list.count; n += kLanes) {
        const int64_t left = list.count - n;
        __m256i x0 = _mm256_set1_epi32((int)list.counter[0]), x1 = _mm256_set1_epi32((int)list.counter[1]);
        __m256i x2 = load_up_to(list.third + n, left), x3 = load_up_to(list.fourth + n, left);
        uint32_t key0 = list.key[0], key1 = list.key[1];
        for (int round = 0; round < 10; ++round) {
            const Product p0 = multiply(x0, factors[0]), p1 = multiply(x2, factors[1]);
            x0 = xor3(p1.high, x1, key0);
            x1 = p1.low;
            x2 = xor3(p0.high, x3, key1);
            x3 = p0.low;
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        // Words to blocks: half h of groups[i] is block 4h + i.
        const __m256i low01 = _mm256_unpacklo_epi32(x0, x1), low23 = _mm256_unpacklo_epi32(x2, x3);
        const __m256i high01 = _mm256_unpackhi_epi32(x0, x1), high23 = _mm256_unpackhi_epi32(x2, x3);
        alignas(32) uint32_t groups[4][2][4];
        _mm256_store_si256((__m256i*)groups[0], _mm256_unpacklo_epi64(low01, low23));
        _mm256_store_si256((__m256i*)groups[1], _mm256_unpackhi_epi64(low01, low23));
        _mm256_store_si256((__m256i*)groups[2], _mm256_unpacklo_epi64(high01, high23));
        _mm256_store_si256((__m256i*)groups[3], _mm256_unpackhi_epi64(high01, high23));
        for (int l = 0; l < kLanes && l < left; ++l) {
            __builtin_memcpy(list.blocks[n + l], groups[l % 4][l / 4], sizeof groups[0][0]);
        }
    }
}

}  // namespace gradsift
