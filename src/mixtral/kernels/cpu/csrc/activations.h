// Token states as int8: rows, and tiles of up to 12 rows for the products with packed weights.
//
// A row is cut into groups of 128 columns like the weights, each with a float32 scale of its own:
// x is about scale * q with q in -127..127. Weights are stored without a sign (code = value + 128),
// so each integer sum starts at bias = -128 * sum(q), and the products need no sign tricks.
//
// A tile of m rows holds for each group: m x int32 bias, m x float32 scale, m x float32 scale *
// sum(q) (for the offsets of int8 weights), and then, for every 4 columns, m dwords of 4 x int8.
// One row alone (m = 1) is thus itself a tile.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "low_bit.h"

namespace {

constexpr int kMaxTile = 12;
constexpr int64_t kRowGroupBytes = 12 + kGroup;  // of one row in a tile

constexpr int64_t row_bytes(int64_t cols) { return divide_up(cols, kGroup) * kRowGroupBytes; }

// Where int8 costs more than this relative error on a row (root mean square), the row is given a
// second row with what the first one left over. States of a normal distribution cost 0.7 %, and
// SwiGLU's products 1.1 %; one channel of 60 times the others costs 1.8 %.
constexpr float kMaxRowError = 0.015f;

// Quantises one group into the part of a row; returns the expected squared error. With a NaN or an
// infinity in it, the scale times the sum of any codes is NaN, and so is every product of the row.
inline float quantize_group(const float* x, uint8_t* out, float* rest) {
    const float largest = largest_size(x, kGroup);
    const float scale = largest / 127.0f;
    const float inverse = int8_steps(largest);
    int8_t codes[kGroup];
    int32_t sum = 0;
    for (int k = 0; k < kGroup; ++k) {
        // Adding and taking away 1.5 * 2^23 rounds to even, and compiles to two vector additions.
        const float rounded = (x[k] * inverse + 12582912.0f) - 12582912.0f;
        const int32_t code = static_cast<int32_t>(rounded);
        codes[k] = static_cast<int8_t>(code);
        sum += code;
        if (rest != nullptr) {
            rest[k] = x[k] - scale * rounded;
        }
    }
    const int32_t bias = -128 * sum;
    const float scaled_sum = scale * static_cast<float>(sum);
    memcpy(out, &bias, 4);
    memcpy(out + 4, &scale, 4);
    memcpy(out + 8, &scaled_sum, 4);
    memcpy(out + 12, codes, kGroup);
    return scale * scale * (static_cast<float>(kGroup) / 12.0f);
}

// Whether a row needs a second one: its expected squared error against its sum of squares.
inline bool needs_second_row(float squared_error, float sum_of_squares) {
    return squared_error > kMaxRowError * kMaxRowError * sum_of_squares;
}

// Quantises a row of `cols` columns, the last group filled up with zeros. Where `second` is not
// null and the row needs it, quantises what is left over into it and returns true.
inline bool quantize_row(const float* x, int64_t cols, uint8_t* row, uint8_t* second,
                         bool always_second) {
    float error = 0.0f, energy = 0.0f;
    const int64_t groups = divide_up(cols, kGroup);
    for (int64_t g = 0; g < groups; ++g) {
        float padded[kGroup];
        const float* group = x + g * kGroup;
        if ((g + 1) * kGroup > cols) {
            memset(padded, 0, sizeof(padded));
            memcpy(padded, group, static_cast<size_t>(cols - g * kGroup) * sizeof(float));
            group = padded;
        }
        error += quantize_group(group, row + g * kRowGroupBytes, nullptr);
        for (int k = 0; k < kGroup; ++k) {
            energy += group[k] * group[k];
        }
    }
    if (second == nullptr || !(always_second || needs_second_row(error, energy))) {
        return false;
    }
    for (int64_t g = 0; g < groups; ++g) {
        float padded[kGroup] = {}, rest[kGroup];
        const int64_t count = (g + 1) * kGroup > cols ? cols - g * kGroup : kGroup;
        memcpy(padded, x + g * kGroup, static_cast<size_t>(count) * sizeof(float));
        quantize_group(padded, row + g * kRowGroupBytes, rest);
        quantize_group(rest, second + g * kRowGroupBytes, nullptr);
    }
    return true;
}

// Lays `m` rows together as a tile.
inline void pack_tile(const uint8_t* const* rows, int m, int64_t groups, uint8_t* tile) {
    for (int64_t g = 0; g < groups; ++g) {
        uint8_t* out = tile + g * m * kRowGroupBytes;
        for (int t = 0; t < m; ++t) {
            const uint8_t* in = rows[t] + g * kRowGroupBytes;
            for (int part = 0; part < 3; ++part) {
                memcpy(out + (part * m + t) * 4, in + part * 4, 4);
            }
            uint8_t* dwords = out + 12 * m + 4 * t;
            for (int64_t q = 0; q < kGroup / 4; ++q) {
                memcpy(dwords + q * 4 * m, in + 12 + q * 4, 4);
            }
        }
    }
}

// Cuts `rows` rows into tiles of nearly equal size, at most `most`: 14 become 7 + 7, not 12 + 2.
struct Tiling {
    int64_t rows, count;

    Tiling(int64_t rows, int64_t most) : rows(rows), count(divide_up(rows, most)) {}
    int64_t start(int64_t i) const { return rows * i / count; }
};

}  // namespace
