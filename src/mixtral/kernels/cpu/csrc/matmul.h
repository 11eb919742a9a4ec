// Products of small float32 matrices that lie in the cache: the work inside the training kernels.
//
// out += a b, with `b` packed: kPanelCols columns of it lie together, row after row, so that the
// inner loop reads two registers of `b` and broadcasts one number of `a` per row of the tile. A
// tile of kRowTile x kPanelCols sums stays in registers for the whole depth (Goto and van de
// Geijn, doi:10.1145/1356052.1356053, section 4). `a` is read through two steps and may thus be
// a transposed matrix. Callers pad: rows of `a` to kRowTile, columns of `b` to kPanelCols.
#pragma once

#include "lanes.h"

namespace {

constexpr int64_t kPanelCols = 2 * kWidth;
#if defined(__AVX512F__)
constexpr int kRowTile = 12;  // 24 sums of 32 registers
#else
constexpr int kRowTile = 6;  // 12 sums of 16 registers
#endif
constexpr int64_t kDepthBlock = 256;  // of a panel: 16 KB with AVX2, half of the first cache

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Element (r, k) is data[r * row_step + k * depth_step].
struct LeftMatrix {
    const float* data;
    int64_t row_step, depth_step;

    LeftMatrix at(int64_t row, int64_t k) const {
        return {data + row * row_step + k * depth_step, row_step, depth_step};
    }
};

inline void multiply_tile(LeftMatrix a, const float* panel, int64_t depth, float* out,
                          int64_t out_step, bool add) {
    Floats sums[kRowTile][2];
#pragma GCC unroll 12
    for (int r = 0; r < kRowTile; ++r) {
        sums[r][0] = add ? load_floats(out + r * out_step) : Floats{};
        sums[r][1] = add ? load_floats(out + r * out_step + kWidth) : Floats{};
    }
#pragma GCC unroll 1
    for (int64_t k = 0; k < depth; ++k) {
        const Floats first = load_floats(panel), second = load_floats(panel + kWidth);
#pragma GCC unroll 12
        for (int r = 0; r < kRowTile; ++r) {
            const Floats left = all(a.data[r * a.row_step]);
            sums[r][0] = multiply_add(first, left, sums[r][0]);
            sums[r][1] = multiply_add(second, left, sums[r][1]);
        }
        panel += kPanelCols;
        a.data += a.depth_step;
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRowTile; ++r) {
        store_floats(out + r * out_step, sums[r][0]);
        store_floats(out + r * out_step + kWidth, sums[r][1]);
    }
}

// out [rows, panels * kPanelCols] (+)= a [rows, depth] b. `rows` is a multiple of kRowTile; panel
// p of `b` is at b + p * panel_step.
inline void multiply(LeftMatrix a, int64_t rows, int64_t depth, const float* b, int64_t panels,
                     int64_t panel_step, float* out, int64_t out_step, bool add) {
    for (int64_t k = 0; k < depth; k += kDepthBlock) {
        const int64_t size = depth - k < kDepthBlock ? depth - k : kDepthBlock;
        for (int64_t p = 0; p < panels; ++p) {
            const float* panel = b + p * panel_step + k * kPanelCols;
            for (int64_t r = 0; r < rows; r += kRowTile) {
                multiply_tile(a.at(r, k), panel, size, out + r * out_step + p * kPanelCols,
                              out_step, add || k > 0);
            }
        }
    }
}

// Packs b [depth, cols], row-major: panel p, [depth][kPanelCols], has columns p * kPanelCols and on.
inline void pack_panels(const float* b, int64_t depth, int64_t cols, int64_t step, float* panels,
                        int64_t panel_step) {
    for (int64_t begin = 0; begin < cols; begin += kPanelCols, panels += panel_step) {
        const int64_t width = cols - begin < kPanelCols ? cols - begin : kPanelCols;
        for (int64_t k = 0; k < depth; ++k) {
            float* row = panels + k * kPanelCols;
            memcpy(row, b + k * step + begin, static_cast<size_t>(width) * sizeof(float));
            memset(row + width, 0, static_cast<size_t>(kPanelCols - width) * sizeof(float));
        }
    }
}

// Packs the transpose of b [cols, depth], row-major, with zeros for columns past `cols`.
inline void pack_transposed(const float* b, int64_t depth, int64_t cols, int64_t step,
                            float* panels, int64_t panel_step) {
    for (int64_t begin = 0; begin < cols; begin += kPanelCols, panels += panel_step) {
        for (int64_t c = 0; c < kPanelCols; ++c) {
            const float* column = begin + c < cols ? b + (begin + c) * step : nullptr;
            for (int64_t k = 0; k < depth; ++k) {
                panels[k * kPanelCols + c] = column != nullptr ? column[k] : 0.0f;
            }
        }
    }
}

// Copies rows [rows, cols] times `scale` to rows of `width` floats, filling up with zeros.
inline void copy_padded(const float* from, int64_t rows, int64_t cols, int64_t step, float scale,
                        float* to, int64_t padded_rows, int64_t width) {
    for (int64_t r = 0; r < padded_rows; ++r) {
        for (int64_t c = 0; c < width; ++c) {
            to[r * width + c] = r < rows && c < cols ? from[r * step + c] * scale : 0.0f;
        }
    }
}

}  // namespace
