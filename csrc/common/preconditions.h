// What both ops demand of their arguments; each throws std::invalid_argument with what was expected and what came.
#pragma once
#include <cstdint>

#include "common/gamma.h"
#include "common/matrix_view.h"

namespace gradsift {

/// A known dtype, a width >= 0.
void check_rows(const char* argument, const RowsView& rows);

/// (samples + 1) offsets that begin with 0 and never fall.
void check_offsets(const int64_t* cu_seqlens, int64_t samples);

/// The moments that `kind` reads, of known dtypes.
void check_moments(GammaKind kind, const MomentView& first, const MomentView& second);

/// Rows of `proj_dim` numbers and of norm pairs that do not overlap; threads >= 1.
void check_output(const MatrixView<float>& sketches, const MatrixView<double>& norms, int64_t proj_dim, int threads);

}  // namespace gradsift
