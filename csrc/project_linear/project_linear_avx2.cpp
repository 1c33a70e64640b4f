#include "common/vec_avx2.h"
//
#include "project_linear/project_linear_tile.h"

namespace gradsift {

// Eight chains cover two FMAs a cycle at latency four; twelve would not divide 8, 16 and 128 rows.
void project_linear_avx2(const LinearSlice& slice) { LinearTile<4, 2>::run(slice); }

}  // namespace gradsift
