// The only file built with -msse4.2: nothing but its entry point may leave it.
#include <nmmintrin.h>

#include "crc32c/crc32c.h"

namespace gradsift {
namespace {

// An instruction takes three cycles and one starts in each: three streams side by side, whose states are then joined.
constexpr int kLogStreamBytes = 10;
constexpr size_t kStreamBytes = size_t{1} << kLogStreamBytes;

constexpr uint32_t apply(const uint32_t (&columns)[32], uint32_t state) {
    uint32_t result = 0;
    for (int bit = 0; bit < 32; ++bit) {
        if (state >> bit & 1) result ^= columns[bit];
    }
    return result;
}

/// at[k][b]: what byte k of a state, being b, becomes behind kStreamBytes bytes of zeros.
struct ZeroBytes {
    uint32_t at[4][256];

    constexpr ZeroBytes() : at{} {
        uint32_t columns[32] = {0x82F63B78u};  // one zero bit, then its square, then the square of that …
        for (int bit = 1; bit < 32; ++bit) columns[bit] = 1u << (bit - 1);
        for (int doubling = 0; doubling < 3 + kLogStreamBytes; ++doubling) {
            uint32_t twice[32] = {};
            for (int bit = 0; bit < 32; ++bit) twice[bit] = apply(columns, columns[bit]);
            for (int bit = 0; bit < 32; ++bit) columns[bit] = twice[bit];
        }
        for (int k = 0; k < 4; ++k) {
            for (uint32_t byte = 0; byte < 256; ++byte) at[k][byte] = apply(columns, byte << (8 * k));
        }
    }

    uint32_t operator()(uint32_t state) const {
        return at[0][state & 0xFF] ^ at[1][state >> 8 & 0xFF] ^ at[2][state >> 16 & 0xFF] ^ at[3][state >> 24];
    }
};

constexpr ZeroBytes kBehindAStream;

uint64_t add_word(uint64_t state, const unsigned char* data) {
    uint64_t word;
    __builtin_memcpy(&word, data, 8);
    return _mm_crc32_u64(state, word);
}

}  // namespace

uint32_t crc32c_sse42(const unsigned char* data, size_t size, uint32_t state) {
    uint64_t wide = state;
    for (; size >= 3 * kStreamBytes; data += 3 * kStreamBytes, size -= 3 * kStreamBytes) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < kStreamBytes; i += 8) {
            wide = add_word(wide, data + i);
            second = add_word(second, data + kStreamBytes + i);
            third = add_word(third, data + 2 * kStreamBytes + i);
        }
        second ^= kBehindAStream(static_cast<uint32_t>(wide));
        wide = kBehindAStream(static_cast<uint32_t>(second)) ^ third;
    }
    for (; size >= 8; data += 8, size -= 8) wide = add_word(wide, data);
    uint32_t narrow = static_cast<uint32_t>(wide);
    for (; size > 0; ++data, --size) narrow = _mm_crc32_u8(narrow, *data);
    return narrow;
}

}  // namespace gradsift
