// Vec before the loop nest that is written over it.
#include "common/vec_neon.h"

#include "project_rows/project_rows_tile.h"

namespace gradsift {

void project_rows_neon(const RowsSlice& slice) { run_rows(slice); }

}  // namespace gradsift
