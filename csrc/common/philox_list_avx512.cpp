#include <immintrin.h>

#include "common/philox_list.h"

namespace gradsift {
namespace {

constexpr int kLanes = 16;

struct Product {
    __m512i high, low;
};

inline Product multiply(__m512i x, __m512i factor) {
    const __m512i even = _mm512_mul_epu32(x, factor);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), factor);
    return {_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd),
            _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32))};
}

inline __m512i xor3(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }

}  // namespace

void philox_list_avx512(const PhiloxList& list) {
    const __m512i factors[2] = {_mm512_set1_epi32((int)0xD2511F53u), _mm512_set1_epi32((int)0xCD9E8D57u)};
    for (int64_t n = 0; n < list.count; n += kLanes) {
        const int64_t left = list.count - n;
        const __mmask16 exist = left < kLanes ? (__mmask16)((1u << left) - 1) : (__mmask16)0xFFFF;
        __m512i x0 = _mm512_set1_epi32((int)list.counter[0]), x1 = _mm512_set1_epi32((int)list.counter[1]);
        __m512i x2 = _mm512_maskz_loadu_epi32(exist, list.third + n);
        __m512i x3 = _mm512_maskz_loadu_epi32(exist, list.fourth + n);
        uint32_t key0 = list.key[0], key1 = list.key[1];
        for (int round = 0; round < 10; ++round) {
            const Product p0 = multiply(x0, factors[0]), p1 = multiply(x2, factors[1]);
            x0 = xor3(p1.high, x1, _mm512_set1_epi32((int)key0));
            x1 = p1.low;
            x2 = xor3(p0.high, x3, _mm512_set1_epi32((int)key1));
            x3 = p0.low;
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        // Words to blocks: quarter q of groups[i] is block 4q + i.
        const __m512i low01 = _mm512_unpacklo_epi32(x0, x1), low23 = _mm512_unpacklo_epi32(x2, x3);
        const __m512i high01 = _mm512_unpackhi_epi32(x0, x1), high23 = _mm512_unpackhi_epi32(x2, x3);
        alignas(64) uint32_t groups[4][4][4];
        _mm512_store_si512(groups[0], _mm512_unpacklo_epi64(low01, low23));
        _mm512_store_si512(groups[1], _mm512_unpackhi_epi64(low01, low23));
        _mm512_store_si512(groups[2], _mm512_unpacklo_epi64(high01, high23));
        _mm512_store_si512(groups[3], _mm512_unpackhi_epi64(high01, high23));
        for (int l = 0; l < kLanes && l < left; ++l) {
            __builtin_memcpy(list.blocks[n + l], groups[l % 4][l / 4], sizeof groups[0][0]);
        }
    }
}

}  // namespace gradsift
