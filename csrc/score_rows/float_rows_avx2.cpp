// Vec before the loop nest that is written over it.
#include "common/vec_avx2.h"

namespace gradsift {
namespace {

// Twelve sums, three columns and a row in sixteen registers.
constexpr int kGroupColumns = 3;

}  // namespace
}  // namespace gradsift

#include "score_rows/float_rows.h"

namespace gradsift {

RowKernel float_rows_avx2(RowFormat format) { return float_row_kernel(format); }

}  // namespace gradsift
