// Vec before the loop nest that is written over it.
#include "common/vec_scalar.h"

#include "quantise/dequantise_row.h"

namespace gradsift {

void dequantise_scalar(const DequantiseSlice& slice) { run_dequantise(slice); }

}  // namespace gradsift
