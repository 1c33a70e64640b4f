#pragma once
#include <string>

#include "cases.h"
#include "memory.h"

namespace driver {

/// Runs `one` on the instruction set in force: whole and cut into batches, on one and several threads, in rows close
/// together and apart, aligned for vectors and not, overwriting and adding. The first way is held against what the case
/// expects, the others against the first, bit for bit. Throws std::runtime_error with what differed.
void check_case(const Case& one, Memory memory);

/// Published values, and all instruction sets against one another at every length and offset. Changes the one in force.
void check_crc32c(Memory memory);

/// The same bytes from quantise_rows, dequantise_rows and round_rows on all instruction sets. Changes the one in force.
void check_store_kernels(Memory memory);

/// What this thread is doing, for a report after a fault.
const char* doing();
void set_doing(const std::string& what);

}  // namespace driver
