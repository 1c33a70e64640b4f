#include "round_rows/round_rows.h"

#include "common/check.h"
#include "common/isa_table.h"

namespace gradsift {
namespace {

constexpr IsaTable<void (*)(const RoundRows&)> kTable = {
    .scalar = round_rows_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = round_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = round_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = round_rows_avx512,
#endif
};

}  // namespace

void round_rows(const RoundRows& call) {
    require(call.n >= 0 && call.cols >= 0, "rows: expected a shape of counts, got (", call.n, ", ", call.cols, ")");
    require(call.n <= 1 || call.stride >= call.cols, "rows: expected a stride of at least ", call.cols, ", got ",
            call.stride);
    kTable.pick(active_isa())(call);
}

}  // namespace gradsift
