// Vec before the loop nest that is written over it.
#include "common/vec_avx512.h"

#include "project_linear/project_linear_nest.h"

namespace gradsift {
namespace {

// Sixteen chains cover one FMA a cycle at latency four; eight rows divide every LoRA rank.
template <class T>
using Tiles = FloatTiles<T, 8, 2>;

}  // namespace

void project_linear_avx512(const LinearSlice& slice) { run_linear_of<Tiles>(slice); }

}  // namespace gradsift
