#include "common/isa.h"

#include <atomic>
#include <cstdlib>

#include "common/check.h"

#if GRADSIFT_BUILD_AVX2
#include <cpuid.h>
#endif

namespace gradsift {
namespace {

constexpr int kUnset = -1;
std::atomic<int> g_active{kUnset};

std::string joined(const std::vector<Isa>& levels) {
    std::string text;
    for (const Isa isa : levels) text += (text.empty() ? "" : ", ") + std::string(isa_name(isa));
    return text;
}

Isa find(const std::string& name, const char* argument) {
    for (const Isa isa : isas()) {
        if (name == isa_name(isa)) return isa;
    }
    require(false, argument, ": expected one of ", joined(isas()), " (what was built and this CPU can run), got '",
            name, "'");
    return Isa::kScalar;
}

#if GRADSIFT_BUILD_AVX2
/// Conversions of float16. clang 14 knows no name for them to ask __builtin_cpu_supports for.
bool has_f16c() {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::kAvx512Bf16:
            return "avx512bf16";
        case Isa::kAvx512Vnni:
            return "avx512vnni";
        case Isa::kAvx512:
            return "avx512";
        case Isa::kAvx2:
            return "avx2";
        case Isa::kNeon:
            return "neon";
        case Isa::kScalar:
            break;
    }
    return "scalar";
}

const std::vector<Isa>& isas() {
    static const std::vector<Isa> levels = [] {
        std::vector<Isa> found;
#if defined(__x86_64__)
        __builtin_cpu_init();  // also asks whether the system saves the wide registers
#endif
#if GRADSIFT_BUILD_AVX512
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
#if GRADSIFT_BUILD_AVX512VNNI
            if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")) {
#if GRADSIFT_BUILD_AVX512BF16
                if (__builtin_cpu_supports("avx512bf16")) found.push_back(Isa::kAvx512Bf16);
#endif
                found.push_back(Isa::kAvx512Vnni);
            }
#endif
            found.push_back(Isa::kAvx512);
        }
#endif
#if GRADSIFT_BUILD_AVX2
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
            found.push_back(Isa::kAvx2);
        }
#endif
#if GRADSIFT_BUILD_NEON
        found.push_back(Isa::kNeon);  // every aarch64 CPU has it
#endif
        found.push_back(Isa::kScalar);
        return found;
    }();
    return levels;
}

std::vector<std::string> built_isas() {
    return {
#if GRADSIFT_BUILD_AVX512BF16
        "avx512bf16",
#endif
#if GRADSIFT_BUILD_AVX512VNNI
        "avx512vnni",
#endif
#if GRADSIFT_BUILD_AVX512
        "avx512",
#endif
#if GRADSIFT_BUILD_AVX2
        "avx2",
#endif
#if GRADSIFT_BUILD_NEON
        "neon",
#endif
        "scalar"};
}

Isa active_isa() {
    const int active = g_active.load(std::memory_order_relaxed);
    if (active != kUnset) return static_cast<Isa>(active);
    const char* name = std::getenv("GRADSIFT_ISA");
    const Isa chosen = name != nullptr && *name != '\0' ? find(name, "GRADSIFT_ISA") : isas().front();
    g_active.store(static_cast<int>(chosen), std::memory_order_relaxed);
    return chosen;
}

void set_isa(const std::string& name) {
    g_active.store(static_cast<int>(find(name, "isa")), std::memory_order_relaxed);
}

}  // namespace gradsift
