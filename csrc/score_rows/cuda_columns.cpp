#include "score_rows/cuda_columns.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/check.h"

namespace gradsift {
namespace {

// Of the float scan's budget of 1e-6 the rest goes into rounding products and norms.
constexpr double kFloatError = 8e-7;
// At P = 256 a thirtieth, and at 8192 less than a hundredth, of what rounding a row to 8 bits does to a cosine.
constexpr double kCodeError = 2e-5;
constexpr int kColumnsOfTile = 8;

bool is_code(int format) { return format >= kRowsInt8; }

void check_format(int format) {
    const bool known = format >= kRowsFloat32 && format <= kRowsBfloat16;
    require(known || (format >= kRowsInt8 && format <= kRowsInt1), "format: expected 1, 2, 3, 16, 17 or 18, got ",
            format);
}

/// Rounded to `bits` significant ones, halves to even.
double round_bits(double value, int bits) {
    if (value == 0.0) return 0.0;
    const int shift = bits - 1 - std::ilogb(value);
    return std::ldexp(std::nearbyint(std::ldexp(value, shift)), -shift);
}

uint16_t half_bits(double value) {
    const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
    const double size = std::fabs(value);
    const int exponent = std::max(size == 0.0 ? -14 : std::ilogb(size), -14);
    return static_cast<uint16_t>(
        sign | (((exponent + 14) << 10) + static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)))));
}

double half_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double size = std::ldexp(exponent == 0 ? mantissa : mantissa + 1024, exponent == 0 ? -24 : exponent - 25);
    return bits & 0x8000 ? -size : size;
}

double plane_weight(int format, int planes, int plane) {
    if (is_code(format)) return std::pow(256.0, planes - 1 - plane);
    return format == kRowsFloat16 ? std::ldexp(1.0, -11 * plane) : 1.0;
}

/// What a column is measured in, so that its largest number fits the planes.
double column_step(int format, int planes, const float* column, int64_t dim) {
    double largest = 0.0;
    for (int64_t k = 0; k < dim; ++k) largest = std::max(largest, std::fabs(double{column[k]}));
    if (largest == 0.0) return 1.0;
    if (is_code(format)) return largest / (127.0 * std::pow(256.0, planes - 1));
    return format == kRowsFloat16 ? std::ldexp(1.0, std::ilogb(largest) - 14) : 1.0;
}

/// The bits of one number in each plane; returns what they stand for.
double split(int format, int planes, double value, double step, uint32_t (&bits)[kMaxPlanes]) {
    double rest = value / step, held = 0.0;
    if (is_code(format)) {
        auto whole = static_cast<int64_t>(std::nearbyint(rest));
        held = static_cast<double>(whole);
        for (int plane = planes - 1; plane >= 0; --plane) {
            const int64_t digit = plane == 0 ? whole : ((whole + 128) & 255) - 128;
            bits[plane] = static_cast<uint32_t>(digit) & 255;
            whole = (whole - digit) / 256;
        }
        return held * step;
    }
    for (int plane = 0; plane < planes; ++plane) {
        const double weight = plane_weight(format, planes, plane);
        double part;
        if (format == kRowsFloat16) {
            bits[plane] = half_bits(rest / weight);
            part = half_value(static_cast<uint16_t>(bits[plane])) * weight;
        } else {
            part = round_bits(rest, format == kRowsFloat32 ? 11 : 8);
            const auto pattern = std::bit_cast<uint32_t>(static_cast<float>(part));
            bits[plane] = format == kRowsFloat32 ? pattern : pattern >> 16;
        }
        held += part;
        rest -= part;
    }
    return held * step;
}

bool planes_suffice(int format, int planes, const float* column, int64_t dim) {
    const double step = column_step(format, planes, column, dim);
    double largest = 0.0, squares = 0.0;
    for (int64_t k = 0; k < dim; ++k) {
        uint32_t bits[kMaxPlanes];
        const double error = std::fabs(column[k] - split(format, planes, column[k], step, bits));
        largest = std::max(largest, error);
        squares += error * error;
    }
    const double typical = std::sqrt(squares / static_cast<double>(dim));  // error of the cosine with a row of norm one
    if (is_code(format)) return 6.0 * typical <= kCodeError;
    return largest <= kFloatError && 6.0 * typical <= kFloatError;
}

int most_planes(int format) { return format == kRowsFloat32 || format == kRowsFloat16 ? 2 : kMaxPlanes; }

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int planes_needed(int format, const float* targets, int64_t dim, int columns) {
    check_format(format);
    int planes = format == kRowsFloat32 ? 2 : 1;
    for (int c = 0; c < columns; ++c) {
        while (planes < most_planes(format) && !planes_suffice(format, planes, targets + c * dim, dim)) ++planes;
    }
    return planes;
}

int64_t stage_bytes(const ColumnPlan& plan, const ColumnGroup& group) {
    return static_cast<int64_t>(row_bytes_of_stage(plan.format, group.kernel_tiles) +
                                column_bytes_of_stage(plan.format, group.kernel_tiles, group.used_tiles, plan.planes));
}

int stages_that_fit(const ColumnPlan& plan, const ColumnGroup& group, int64_t shared_bytes) {
    return static_cast<int>(std::min<int64_t>(shared_bytes / stage_bytes(plan, group), kMaxStages));
}

ColumnPlan plan_columns(int format, int64_t dim, int columns, int planes, int64_t shared_bytes) {
    check_format(format);
    require(dim >= 1, "proj_dim: expected a count >= 1, got ", dim);
    require(columns >= 1, "n_targets: expected a count >= 1, got ", columns);
    require(planes >= (format == kRowsFloat32 ? 2 : 1) && planes <= most_planes(format), "planes: expected up to ",
            most_planes(format), ", got ", planes);
    ColumnPlan plan;
    plan.format = format;
    plan.dim = dim;
    plan.columns = columns;
    plan.planes = planes;
    for (int plane = 0; plane < planes; ++plane) {
        plan.plane_weight[plane] = static_cast<float>(plane_weight(format, planes, plane));
    }
    for (int first = 0; first < columns;) {
        ColumnGroup group{};
        group.first = first;
        group.count = std::min(columns - first, format == kRowsInt1 ? 64 : 128);
        for (;; group.count = group.used_tiles * kColumnsOfTile - 16) {
            group.used_tiles = static_cast<int>(divide_up(group.count, 16)) * 2;
            group.kernel_tiles = group.used_tiles <= 2 ? 2 : group.used_tiles <= 8 ? 8 : 16;
            if (stages_that_fit(plan, group, shared_bytes) >= 2) break;
            require(group.used_tiles > 2, "shared_bytes: expected room for two stages, got ", shared_bytes);
        }
        const int64_t units = divide_up(dim, score_format(format).codes);
        group.stages_of_row = divide_up(units, units_of_stage(format, group.kernel_tiles));
        group.offset = plan.bytes;
        plan.bytes += group.stages_of_row *
                      static_cast<int64_t>(column_bytes_of_stage(format, group.kernel_tiles, group.used_tiles, planes));
        plan.groups.push_back(group);
        first += group.count;
    }
    return plan;
}

void pack_columns(const ColumnPlan& plan, const float* targets, uint8_t* packed, float* column_scale) {
    const int format = plan.format, pieces = score_format(format).column_pieces;
    const int in_register = format == kRowsFloat32 ? 1 : is_code(format) ? 4 : 2, bits_of_each = 32 / in_register;
    std::memset(packed, 0, static_cast<size_t>(plan.bytes));
    for (const ColumnGroup& group : plan.groups) {
        const int64_t units = group.stages_of_row * units_of_stage(format, group.kernel_tiles);
        for (int c = 0; c < group.count; ++c) {
            const float* const column = targets + (group.first + c) * plan.dim;
            const double step = column_step(format, plan.planes, column, plan.dim);
            double sum = 0.0;
            for (int64_t unit = 0; unit < units; ++unit) {
                for (int at = 0; at < pieces * 16 * in_register; ++at) {
                    const int e = at % in_register, r = at / in_register % 4, t = at / in_register / 4 % 4;
                    const int piece = at / in_register / 16;
                    const int64_t k = number_at(format, unit, piece, t, r, e);
                    if (k >= plan.dim) continue;
                    uint32_t bits[kMaxPlanes] = {};
                    sum += split(format, plan.planes, column[k], step, bits) / step;
                    for (int plane = 0; plane < plan.planes; ++plane) {
                        const int64_t tile = (unit * plan.planes + plane) * group.used_tiles + c / kColumnsOfTile;
                        const int64_t lane = ((tile * pieces + piece) * kColumnsOfTile + c % kColumnsOfTile) * 4 + t;
                        uint8_t* const word = packed + group.offset + lane * 16 + r * 4;
                        uint32_t old;
                        std::memcpy(&old, word, sizeof old);
                        old |= bits[plane] << (e * bits_of_each);
                        std::memcpy(word, &old, sizeof old);
                    }
                }
            }
            column_scale[2 * (group.first + c)] = static_cast<float>(step);
            column_scale[2 * (group.first + c) + 1] = static_cast<float>(sum);
        }
    }
}

}  // namespace gradsift
