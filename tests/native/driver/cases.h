// Calls and what they should give, as write_cases.py writes them: little-endian, no padding.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace driver {

enum class Op : int64_t { kLinear = 0, kRows = 1, kSparseRows = 2 };

struct CaseHeader {
    char name[64];  // ends with a zero
    Op op;
    int64_t dtype, moment_dtype;  // 0 float32, 1 bfloat16; moment_dtype −1: none
    int64_t samples, d_out, d_in;
    int64_t tokens;  // rows of each input; of `grads` when whole: samples · d_out
    int64_t projection_kind, proj_dim, nonzeros;
    uint64_t seed, param_id;
    int64_t gamma_kind, step;
    double beta1, beta2, eps;
    double sketch_budget, norm_budget;  // largest relative error; 0: every bit
};
static_assert(sizeof(CaseHeader) == 64 + 19 * 8);

struct Case {
    CaseHeader header;
    std::vector<int64_t> cu_seqlens;                  // (samples + 1); none for kRows
    std::vector<int64_t> row_ids;                     // (tokens); kSparseRows alone
    std::vector<unsigned char> inputs, output_grads;  // (tokens, d_in), (tokens, d_out); output_grads: kLinear alone
    std::vector<unsigned char> first, second;         // (d_out, d_in) each, or none
    std::vector<float> sketches;                      // (samples, P)
    std::vector<double> norms;                        // (samples, 2)
};

/// Throws std::runtime_error where the file is not one of cases, is cut short or goes on.
std::vector<Case> read_cases(const std::string& path);

}  // namespace driver
