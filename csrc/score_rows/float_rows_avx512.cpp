// Vec before the loop nest that is written over it.
#include "common/vec_avx512.h"

namespace gradsift {
namespace {

// 24 sums, six columns and a row in 32 registers.
constexpr int kGroupColumns = 6;

}  // namespace
}  // namespace gradsift

#include "score_rows/float_rows.h"

namespace gradsift {

const RowKernel kFloat32RowsAvx512 = {packed_bytes, pack, score_float_rows<float>};
const RowKernel kFloat16RowsAvx512 = {packed_bytes, pack, score_float_rows<fp16>};
const RowKernel kBfloat16RowsAvx512 = {packed_bytes, pack, score_float_rows<bf16>};

}  // namespace gradsift
