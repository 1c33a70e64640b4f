#include "crc32c/crc32c.h"

#include <algorithm>
#include <array>

#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace gradsift {
namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// tables[k][b]: what byte b does to the state when k more bytes follow it.
constexpr Tables make_tables() {
    Tables tables{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) ? 0x82F63B78u : 0u);
        tables[0][byte] = state;
    }
    for (size_t k = 1; k < 8; ++k) {
        for (size_t byte = 0; byte < 256; ++byte) {
            const uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

uint32_t crc32c_tables(const unsigned char* data, size_t size, uint32_t state) {
    for (; size >= 8; data += 8, size -= 8) {
        uint32_t mixed = 0;
        for (uint32_t k = 0; k < 4; ++k) {
            mixed ^= kTables[7 - k][((state >> (8 * k)) & 0xFF) ^ data[k]];
            mixed ^= kTables[3 - k][data[4 + k]];
        }
        state = mixed;
    }
    for (; size > 0; ++data, --size) state = (state >> 8) ^ kTables[0][(state & 0xFF) ^ *data];
    return state;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size, uint32_t value) {
    const auto* bytes = static_cast<const unsigned char*>(data);
#if GRADSIFT_BUILD_SSE42
    if (active_isa() != Isa::kScalar && __builtin_cpu_supports("sse4.2")) {
        return ~crc32c_sse42(bytes, size, ~value);
    }
#endif
    return ~crc32c_tables(bytes, size, ~value);
}

void crc32c_blocks(const void* data, size_t size, size_t block_bytes, uint32_t* values, int threads) {
    require(block_bytes >= 1, "block_bytes: expected at least 1, got ", block_bytes);
    require(threads >= 1, "threads: expected a count >= 1, got ", threads);
    const auto* bytes = static_cast<const unsigned char*>(data);
    const size_t blocks = (size + block_bytes - 1) / block_bytes;
    parallel_for(static_cast<int64_t>(blocks), threads, [&](int64_t block) {
        const size_t first = static_cast<size_t>(block) * block_bytes;
        values[block] = crc32c(bytes + first, std::min(block_bytes, size - first), 0);
    });
}

}  // namespace gradsift
