// Vec before the loop nest that is written over it.
#include "common/vec_avx512.h"

#include "project_linear/project_linear_nest.h"
#include "project_linear/project_linear_pairs.h"

namespace gradsift {

void project_linear_avx512bf16(const LinearSlice& slice) {
    if (slice.dtype == Dtype::kBfloat16) {
        run_linear<PairTiles>(slice);
    } else {
        project_linear_avx512(slice);
    }
}

}  // namespace gradsift
