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

const RowKernel kFloat32RowsAvx2 = {packed_bytes, pack, score_float_rows<float>};
const RowKernel kFloat16RowsAvx2 = {packed_bytes, pack, score_float_rows<fp16>};
const RowKernel kBfloat16RowsAvx2 = {packed_bytes, pack, score_float_rows<bf16>};

}  // namespace gradsift
