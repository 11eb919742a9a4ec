// RMSNorm (arXiv:1910.07467), float32, written once for every level.
//
// The sum of squares is kept in 16 lanes: column c goes to lane c % 16, and the lanes are added in
// a fixed tree. The order is thus part of the source, the compiler needs no leave to reorder (no
// -ffast-math), and every level gives the same bits. Only the number of registers that hold the 16
// lanes differs: one of AVX-512, two of AVX, four of SSE or NEON.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

// A type wider than the registers of the level would be split through memory by GCC 12.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;
constexpr int kRegisters = kLanes / kWidth;
typedef float Register __attribute__((vector_size(kWidth * sizeof(float))));

inline void add_squares(const float* x, Register* sums) {
    for (int i = 0; i < kRegisters; ++i) {
        Register values;
        memcpy(&values, x + i * kWidth, sizeof(values));  // rows need not be aligned
        sums[i] += values * values;
    }
}

inline float sum_of_squares(const float* x, int64_t cols) {
    Register sums[kRegisters] = {};
    int64_t col = 0;
    for (; col + kLanes <= cols; col += kLanes) {
        add_squares(x + col, sums);
    }
    float rest[kLanes] = {};
    memcpy(rest, x + col, static_cast<size_t>(cols - col) * sizeof(float));
    add_squares(rest, sums);

    float lanes[kLanes];
    memcpy(lanes, sums, sizeof(lanes));
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) {
            lanes[lane] += lanes[lane + half];
        }
    }
    return lanes[0];
}

void rms_norm_f32(const float* x, const float* weight, float* out, int64_t rows, int64_t cols,
                  float eps) {
    for (int64_t row = 0; row < rows; ++row) {
        const float* x_row = x + row * cols;
        float* out_row = out + row * cols;
        const float mean = sum_of_squares(x_row, cols) / static_cast<float>(cols);
        const float scale = 1.0f / sqrtf(mean + eps);
        for (int64_t col = 0; col < cols; ++col) {
            out_row[col] = x_row[col] * scale * weight[col];
        }
    }
}

}  // namespace
