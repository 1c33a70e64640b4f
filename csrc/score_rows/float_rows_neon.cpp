// Vec before the loop nest that is written over it.
#include "common/vec_neon.h"

namespace gradsift {
namespace {

// 24 sums, six columns and a row in 32 registers.
constexpr int kGroupColumns = 6;

}  // namespace
}  // namespace gradsift

#include "score_rows/float_rows.h"

namespace gradsift {

RowKernel float_rows_neon(RowFormat format) { return float_row_kernel(format); }

}  // namespace gradsift
