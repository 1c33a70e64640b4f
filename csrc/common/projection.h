// The code form of docs/projection-spec.md.
#pragma once
#include <cstdint>
#include <vector>

#include "common/sketch_plan.h"

namespace gradsift {

/// Names one random matrix over all parameters.
struct Projection {
    ProjectionKind kind = ProjectionKind::kXor;
    int64_t proj_dim = 0;
    uint64_t seed = 0;
    int nonzeros = 1;

    /// 1/√nonzeros, or 1/√P for the dense kind: a kernel adds ±Γ and the sum is scaled once.
    float scale() const;
};

/// Throws std::invalid_argument unless the projection is one of version 1.
void check_projection(const Projection& projection);

/// Signs and masks of one parameter, drawn once a call and shared by its samples: an eighth of a byte an entry.
class ProjectionTables {
  public:
    /// `rows` × `cols` is the parameter. Sign row k belongs to row k of the parameter, or to row `row_ids[k]`, k <
    /// `listed`, where ids are given.
    ProjectionTables(const Projection& projection, uint64_t param_id, int64_t rows, int64_t cols,
                     const int64_t* row_ids, int64_t listed, int threads);

    const SketchPlan& plan() const { return plan_; }

  private:
    std::vector<uint32_t> signs_;
    std::vector<uint32_t> masks_;
    SketchPlan plan_{};
};

}  // namespace gradsift
