// Vec before the loop nest that is written over it.
#include "common/vec_neon.h"

#include "quantise/dequantise_row.h"

namespace gradsift {

void dequantise_neon(const DequantiseSlice& slice) { run_dequantise(slice); }

}  // namespace gradsift
