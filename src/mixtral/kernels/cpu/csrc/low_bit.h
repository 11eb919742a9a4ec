// The packed layouts of int8, int4 and int3 weights; ../../formats.py is their specification.
//
// A weight [rows, cols] is cut into panels of 32 rows and each panel into groups of 128 columns. A
// group of a panel is one contiguous block, so a panel is one stream from memory:
//
//   header  32 x uint32, one per row: scale (bfloat16) in the high half, `extra` in the low one
//   codes   lines of 64 bytes; dword r of a line belongs to row r (or 16 + r) of the panel
//
// int8: value = scale * (code - 128) + offset, `extra` is the offset in bfloat16. int4 and int3:
// value = scale * grid[s][code], where 16 columns share s, 2 bits of `extra`.
#pragma once

#include <stdint.h>
#include <string.h>

// No linkage outside: an inline function shared between levels could come from the AVX-512 copy.
namespace {

constexpr int64_t kGroup = 128;      // columns that share a scale
constexpr int64_t kPanel = 32;       // rows that lie together
constexpr int64_t kSubgroup = 16;    // columns that share a grid
constexpr int64_t kHeaderBytes = kPanel * 4;
constexpr int64_t kLineBytes = 64;

// Codes of formats, as ../library.py passes them.
enum WeightFormat : int32_t { kInt3 = 3, kInt4 = 4, kInt8 = 8, kBf16 = 16 };

constexpr int64_t group_bytes(int bits) { return kHeaderBytes + kPanel * kGroup * bits / 8; }

static_assert(group_bytes(kInt8) == 4224 && group_bytes(kInt4) == 2176 && group_bytes(kInt3) == 1664,
              "formats.py has these numbers");

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t panel_bytes(int bits, int64_t cols) {
    return divide_up(cols, kGroup) * group_bytes(bits);
}

// Grids of int4 and int3 in units of scale, each sorted; GRIDS in ../../formats.py.
constexpr int8_t kGrids4[4][16] = {
    {-89, -62, -48, -37, -27, -18, -9, 0, 7, 13, 22, 31, 42, 54, 69, 88},
    {-79, -66, -53, -42, -31, -22, -13, -5, 2, 9, 18, 27, 37, 48, 61, 78},
    {-108, -87, -69, -53, -39, -26, -14, -3, 8, 19, 31, 44, 58, 75, 99, 127},
    {-127, -98, -75, -58, -44, -31, -19, -8, 3, 14, 26, 39, 52, 68, 86, 109},
};
constexpr int8_t kGrids3[4][8] = {
    {-86, -50, -24, 0, 21, 46, 79, 127},
    {-109, -66, -39, -15, 7, 30, 57, 99},
    {-81, -53, -32, -13, 6, 24, 43, 68},
    {-65, -41, -22, -3, 16, 35, 56, 85},
};

inline float from_bf16_bits(uint32_t bits) {
    bits <<= 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// The largest absolute value. The bits of sizes order as whole numbers do, with a NaN above all
// others: so it is not lost, and the loop has no chain of float comparisons.
inline float largest_size(const float* values, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t size = static_cast<int32_t>(float_bits(values[i]) & 0x7fffffffu);
        largest = size > largest ? size : largest;
    }
    float value;
    memcpy(&value, &largest, sizeof(value));
    return value;
}

// What values of at most `largest` are multiplied with to become int8. 0 where 127 / largest would
// be infinite: such values are nothing. 0 for a NaN, too, which the scale passes on.
inline float int8_steps(float largest) { return largest > 4e-37f ? 127.0f / largest : 0.0f; }

// Nearest bfloat16, ties to even; a NaN stays one.
inline uint16_t to_bf16_bits(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return static_cast<uint16_t>((bits >> 16) | 0x40u);
    }
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace
