// Vec before the loop nest that is written over it.
#include "common/vec_scalar.h"

#include "quantise/quantise_row.h"

namespace gradsift {

void quantise_scalar(const QuantiseSlice& slice) { run_quantise(slice); }

}  // namespace gradsift
