// Vec before the loop nest that is written over it.
#include "common/vec_avx2.h"

#include "project_linear/project_linear_nest.h"

namespace gradsift {
namespace {

// Eight chains cover two FMAs a cycle at latency four; twelve would not divide 8, 16 and 128 rows.
template <class T>
using Tiles = FloatTiles<T, 4, 2>;

}  // namespace

void project_linear_avx2(const LinearSlice& slice) { run_linear_of<Tiles>(slice); }

}  // namespace gradsift
