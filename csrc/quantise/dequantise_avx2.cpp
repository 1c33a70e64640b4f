// Vec before the loop nest that is written over it.
#include "common/vec_avx2.h"

#include "quantise/dequantise_row.h"

namespace gradsift {

void dequantise_avx2(const DequantiseSlice& slice) { run_dequantise(slice); }

}  // namespace gradsift
