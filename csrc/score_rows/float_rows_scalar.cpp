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

const RowKernel kFloat32RowsScalar = {packed_bytes, pack, score_float_rows<float>};
const RowKernel kFloat16RowsScalar = {packed_bytes, pack, score_float_rows<fp16>};
const RowKernel kBfloat16RowsScalar = {packed_bytes, pack, score_float_rows<bf16>};

}  // namespace gradsift
