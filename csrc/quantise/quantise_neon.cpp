// Vec before the loop nest that is written over it.
#include "common/vec_neon.h"

#include "quantise/quantise_row.h"

namespace gradsift {

void quantise_neon(const QuantiseSlice& slice) { run_quantise(slice); }

}  // namespace gradsift
