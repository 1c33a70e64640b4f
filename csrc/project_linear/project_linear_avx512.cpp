#include "common/vec_avx512.h"
//
#include "project_linear/project_linear_tile.h"

namespace gradsift {

// Sixteen chains; eight rows divide every LoRA rank, and 32 columns of 256 tokens are 32 KB.
void project_linear_avx512(const LinearSlice& slice) { LinearTile<8, 2>::run(slice); }

}  // namespace gradsift
