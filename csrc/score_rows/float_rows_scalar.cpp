// Vec before the loop nest that is written over it.
#include "common/vec_scalar.h"

namespace gradsift {
namespace {

// Eight sums, two columns and a row fit the sixteen registers of the smallest CPU.
constexpr int kGroupColumns = 2;

}  // namespace
}  // namespace gradsift

#include "score_rows/float_rows.h"

namespace gradsift {

RowKernel float_rows_scalar(RowFormat format) { return float_row_kernel(format); }

}  // namespace gradsift
