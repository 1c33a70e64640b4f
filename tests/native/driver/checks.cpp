#include "checks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "common/isa.h"
#include "project_linear/project_linear.h"
#include "project_rows/project_rows.h"

namespace driver {
namespace {

using namespace gradsift;

/// One way to make the same call.
struct Way {
    const char* name;
    int threads;
    Side side;
    int64_t gap;     // elements between rows
    int64_t offset;  // elements from where the memory begins
    int64_t split;   // samples of a batch; 0: all
    bool accumulate, padded;
};

// The gaps are odd, so that no two rows are alike in alignment.
constexpr Way kWays[] = {
    {"whole", 1, Side::kEnd, 0, 0, 0, false, false},
    {"adding, 2 threads", 2, Side::kFront, 0, 0, 0, true, false},
    {"alone, rows apart, 3 threads", 3, Side::kEnd, 3, 0, 1, false, false},
    {"by twos, unaligned, 2 threads", 2, Side::kEnd, 1, 1, 2, false, false},
    {"padded, 2 threads", 2, Side::kFront, 5, 0, 0, false, true},
};

thread_local std::string t_doing;

struct Rows {
    Block block;
    int64_t stride;
    void* data;
};

/// `rows` × `cols` elements of `size` bytes, copied to rows `gap` apart; NaN between and after. Ends with its last row.
Rows place(Memory memory, const Way& way, const std::vector<unsigned char>& from, int64_t rows, int64_t cols,
           int64_t size) {
    const int64_t stride = cols + way.gap;
    const int64_t bytes = rows == 0 ? 0 : (way.offset + (rows - 1) * stride + cols) * size;
    Block block(memory, way.side, static_cast<size_t>(bytes));
    unsigned char* const data = block.as<unsigned char>() + (rows == 0 ? 0 : way.offset * size);
    for (int64_t r = 0; r < rows && cols > 0; ++r) {
        std::memcpy(data + r * stride * size, from.data() + r * cols * size, static_cast<size_t>(cols * size));
    }
    return {std::move(block), stride, data};
}

template <class T>
Block place_list(Memory memory, const Way& way, const std::vector<T>& from) {
    Block block(memory, way.side, from.size() * sizeof(T));
    if (!from.empty()) std::memcpy(block.as<T>(), from.data(), from.size() * sizeof(T));
    return block;
}

struct Result {
    std::vector<float> sketches;
    std::vector<double> norms;
};

/// Rows of outputs with a gap between, which must be as they were when the call is over.
template <class T>
struct Output {
    Output(Memory memory, const Way& way, int64_t count, int64_t width, T before)
        : rows(count),
          cols(width),
          stride(width + way.gap),
          block(memory, way.side, static_cast<size_t>(count == 0 ? 0 : (count - 1) * stride + width) * sizeof(T)) {
        if (!way.accumulate) return;
        for (int64_t r = 0; r < rows; ++r) std::fill_n(block.template as<T>() + r * stride, cols, before);
    }

    MatrixView<T> view() const { return {block.template as<T>(), rows, cols, stride}; }

    void append_to(std::vector<T>& all) const {
        const T* const data = block.template as<T>();
        for (int64_t r = 0; r < rows; ++r) {
            all.insert(all.end(), data + r * stride, data + r * stride + cols);
            for (int64_t k = cols; k < stride && r + 1 < rows; ++k) {
                if (!std::isnan(data[r * stride + k])) throw std::runtime_error("written between rows of an output");
            }
        }
    }

    int64_t rows, cols, stride;
    Block block;
};

MomentView moment(const Block& block, const CaseHeader& h) {
    if (h.moment_dtype < 0) return {};
    return {block.as<const void>(), static_cast<Dtype>(h.moment_dtype)};
}

/// What outputs hold before a call that adds to them. In which order a float is added to is not promised, so only small
/// integers are added to anything but zero.
double value_before(const CaseHeader& h) { return h.sketch_budget == 0 ? 1.0 : 0.0; }

/// The samples [begin, end) of a case, in memory of their own.
void run_batch(const Case& one, const Way& way, Memory memory, int64_t begin, int64_t end, Result& result) {
    const CaseHeader& h = one.header;
    const int64_t size = size_of(static_cast<Dtype>(h.dtype));
    const bool listed = h.op != Op::kRows;
    const int64_t from = listed ? one.cu_seqlens[static_cast<size_t>(begin)] : begin * h.d_out;
    const int64_t to = listed ? one.cu_seqlens[static_cast<size_t>(end)] : end * h.d_out;
    const auto part = [&](const std::vector<unsigned char>& all, int64_t cols) {
        return std::vector<unsigned char>(all.begin() + from * cols * size, all.begin() + to * cols * size);
    };
    std::vector<int64_t> offsets;
    for (int64_t b = begin; listed && b <= end; ++b) offsets.push_back(one.cu_seqlens[static_cast<size_t>(b)] - from);
    const Block cu_seqlens = place_list(memory, way, offsets);
    const Rows inputs = place(memory, way, part(one.inputs, h.d_in), to - from, h.d_in, size);
    const Block first = place_list(memory, way, one.first), second = place_list(memory, way, one.second);
    const Output<float> sketches(memory, way, end - begin, h.proj_dim, static_cast<float>(value_before(h)));
    const Output<double> norms(memory, way, end - begin, 2, value_before(h));

    const auto fill = [&](auto& call) {
        call.projection = {static_cast<ProjectionKind>(h.projection_kind), h.proj_dim, h.seed,
                           static_cast<int>(h.nonzeros)};
        call.param_id = h.param_id;
        call.gamma = {static_cast<GammaKind>(h.gamma_kind), h.beta1, h.beta2, h.eps, h.step};
        call.first = moment(first, h);
        call.second = moment(second, h);
        call.sketches = sketches.view();
        call.norms = norms.view();
        call.accumulate = way.accumulate;
        call.threads = way.threads;
    };
    const auto dtype = static_cast<Dtype>(h.dtype);
    if (h.op == Op::kLinear) {
        const Rows grads = place(memory, way, part(one.output_grads, h.d_out), to - from, h.d_out, size);
        // In a padded batch every sample has as many tokens, the distance between samples in both arrays.
        const int64_t tokens = way.padded && end > begin ? (to - from) / (end - begin) : 0;
        ProjectLinear call;
        fill(call);
        call.activations = {inputs.data, dtype, h.d_in, tokens * inputs.stride, inputs.stride};
        call.output_grads = {grads.data, dtype, h.d_out, tokens * grads.stride, grads.stride};
        call.cu_seqlens = cu_seqlens.as<int64_t>();
        call.padded = way.padded;
        project_linear(call);
    } else {
        const std::vector<int64_t> own(one.row_ids.begin() + (listed ? from : 0),
                                       one.row_ids.begin() + (listed ? to : 0));
        const Block row_ids = place_list(memory, way, own);
        ProjectRows call;
        fill(call);
        call.grads = {inputs.data, dtype, h.d_in, listed ? 0 : h.d_out * inputs.stride, inputs.stride};
        call.rows = h.d_out;
        if (listed) {
            call.row_ids = row_ids.as<int64_t>();
            call.cu_seqlens = cu_seqlens.as<int64_t>();
        }
        project_rows(call);
    }
    sketches.append_to(result.sketches);
    norms.append_to(result.norms);
}

Result run(const Case& one, const Way& way, Memory memory) {
    Result result;
    const int64_t samples = one.header.samples;
    const int64_t step = way.split > 0 ? way.split : std::max<int64_t>(samples, 1);
    for (int64_t b = 0; b == 0 || b < samples; b += step) {
        run_batch(one, way, memory, b, std::min(b + step, samples), result);
    }
    return result;
}

bool can_be_padded(const Case& one) {
    if (one.header.op != Op::kLinear || one.header.samples == 0) return false;
    for (size_t b = 0; b + 1 < one.cu_seqlens.size(); ++b) {
        if (one.cu_seqlens[b + 1] - one.cu_seqlens[b] != one.cu_seqlens[1]) return false;
    }
    return true;
}

template <class T>
void same_bits(const char* what, const std::vector<T>& got, const std::vector<T>& want, T before) {
    for (size_t k = 0; k < want.size(); ++k) {
        const T expected = before + want[k];
        if (std::memcmp(&got[k], &expected, sizeof(T)) == 0 || got[k] == expected) continue;
        throw std::runtime_error(std::string(what) + "[" + std::to_string(k) + "]: expected " +
                                 std::to_string(expected) + ", got " + std::to_string(got[k]));
    }
}

/// ‖got − want‖ / ‖want‖ of each row of `cols`.
template <class T>
void within(const char* what, const std::vector<T>& got, const std::vector<T>& want, int64_t cols, double budget) {
    for (size_t begin = 0; begin < want.size(); begin += static_cast<size_t>(cols)) {
        double error = 0, length = 0;
        for (size_t k = begin; k < begin + static_cast<size_t>(cols); ++k) {
            error += (double{got[k]} - double{want[k]}) * (double{got[k]} - double{want[k]});
            length += double{want[k]} * double{want[k]};
        }
        if (std::sqrt(error) <= budget * std::sqrt(length)) continue;
        throw std::runtime_error(std::string(what) + ", row " + std::to_string(begin / static_cast<size_t>(cols)) +
                                 ": expected an error of at most " + std::to_string(budget * 1e9) + "e-9, got " +
                                 std::to_string(std::sqrt(error / length) * 1e9) + "e-9");
    }
}

}  // namespace

const char* doing() { return t_doing.c_str(); }
void set_doing(const std::string& what) { t_doing = what; }

void check_case(const Case& one, Memory memory) {
    const CaseHeader& h = one.header;
    Result whole;
    for (const Way& way : kWays) {
        if (way.padded && !can_be_padded(one)) continue;
        set_doing(std::string(h.name) + ", " + isa_name(active_isa()) + ", " + way.name);
        const Result got = run(one, way, memory);
        if (&way != &kWays[0]) {
            same_bits("sketches", got.sketches, whole.sketches,
                      way.accumulate ? static_cast<float>(value_before(h)) : 0.0f);
            same_bits("norms", got.norms, whole.norms, way.accumulate ? value_before(h) : 0.0);
            continue;
        }
        whole = got;
        if (h.sketch_budget == 0) {
            same_bits("sketches", got.sketches, one.sketches, 0.0f);
            same_bits("norms", got.norms, one.norms, 0.0);
        } else {
            within("sketches", got.sketches, one.sketches, h.proj_dim, h.sketch_budget);
            within("norms", got.norms, one.norms, 1, h.norm_budget);
        }
    }
    set_doing("");
}

}  // namespace driver
