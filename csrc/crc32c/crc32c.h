#pragma once
#include <stddef.h>
#include <stdint.h>

namespace gradsift {

/// CRC-32C (Castagnoli, RFC 3720 B.4) of `size` bytes, continuing from `value`; 0 starts. No alignment needed.
/// The SSE4.2 instruction where the CPU has it, unless the level in force is scalar; else tables.
uint32_t crc32c(const void* data, size_t size, uint32_t value);

/// values[i] = crc32c of block i of `data`: `block_bytes` each, the last perhaps fewer.
void crc32c_blocks(const void* data, size_t size, size_t block_bytes, uint32_t* values, int threads);

/// Only on a CPU with SSE4.2; without the final and initial inversion.
uint32_t crc32c_sse42(const unsigned char* data, size_t size, uint32_t state);

}  // namespace gradsift
