// Vec before the loop nest that is written over it.
#include "common/vec_avx512.h"

#include "quantise/dequantise_row.h"

namespace gradsift {

void dequantise_avx512(const DequantiseSlice& slice) { run_dequantise(slice); }

}  // namespace gradsift
