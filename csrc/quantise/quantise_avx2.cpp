// Vec before the loop nest that is written over it.
#include "common/vec_avx2.h"

#include "quantise/quantise_row.h"

namespace gradsift {

void quantise_avx2(const QuantiseSlice& slice) { run_quantise(slice); }

}  // namespace gradsift
