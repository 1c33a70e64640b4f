#include "crc32c/crc32c.h"

#include <array>

#include "common/isa.h"

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

}  // namespace gradsift
