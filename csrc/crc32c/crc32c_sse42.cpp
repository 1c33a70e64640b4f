// The only file built with -msse4.2: nothing but its entry point may leave it.
#include <nmmintrin.h>

#include "crc32c/crc32c.h"

namespace gradsift {

uint32_t crc32c_sse42(const unsigned char* data, size_t size, uint32_t state) {
    uint64_t wide = state;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        __builtin_memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    uint32_t narrow = static_cast<uint32_t>(wide);
    for (; size > 0; ++data, --size) narrow = _mm_crc32_u8(narrow, *data);
    return narrow;
}

}  // namespace gradsift
