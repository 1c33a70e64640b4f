#pragma once
#include <string>
#include <vector>

namespace gradsift {

/// Instruction-set levels, each holding the ones before it on its own architecture.
/// AVX-512 is F, BW, VL and DQ; then VNNI and VBMI; then BF16.
enum class Isa : int { kScalar = 0, kNeon = 1, kAvx2 = 2, kAvx512 = 3, kAvx512Vnni = 4, kAvx512Bf16 = 5 };

const char* isa_name(Isa isa);

/// What was built and this CPU and system can run, best first; never empty.
const std::vector<Isa>& isas();

/// The names of the levels that were built, best first, whatever this CPU can do.
std::vector<std::string> built_isas();

/// The level in force: the last `set_isa`, else GRADSIFT_ISA, else the best.
/// Throws std::invalid_argument where GRADSIFT_ISA names none of `isas()`.
Isa active_isa();

/// Takes effect on calls that start later. Throws std::invalid_argument on a name not in `isas()`.
void set_isa(const std::string& name);

}  // namespace gradsift
