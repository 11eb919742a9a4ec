// Packed weights back to float32, row by row: what training multiplies with in both directions.
//
// The values are those of ../../formats.py, to the bit. A subgroup of a row, 16 codes, fits one
// register: its dwords are gathered from the lines of the panel, and the 16 bytes of the row's grid
// are a table that one shuffle reads. Groups are read forwards; each writes whole cache lines.
#pragma once

#include <stdint.h>
#include <string.h>

#include "low_bit.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

typedef uint32_t Dwords __attribute__((vector_size(16)));

inline uint32_t load_dword(const uint8_t* p) {
    uint32_t value;
    memcpy(&value, p, sizeof(value));
    return value;
}

// Bit j of four bits to bit 2 of byte j: the third bits of four int3 codes.
inline uint32_t spread_bits(uint32_t four) { return ((four * 0x00204081u) & 0x01010101u) << 2; }

// The codes of one row in one subgroup, a byte each, in the order of k.
inline Dwords subgroup_codes(const uint8_t* codes, int64_t row, int64_t sub, int bits) {
    const int64_t half = row / 16, r = row % 16;
    const uint8_t* word = codes + half * kLineBytes + 4 * r;
    if (bits == kInt8) {
        word += sub * 8 * kLineBytes;
        return Dwords{load_dword(word), load_dword(word + 2 * kLineBytes),
                      load_dword(word + 4 * kLineBytes), load_dword(word + 6 * kLineBytes)};
    }
    if (bits == kInt4) {
        const uint32_t first = load_dword(word + sub * 4 * kLineBytes);
        const uint32_t second = load_dword(word + (sub * 4 + 2) * kLineBytes);
        return Dwords{first, first >> 4, second, second >> 4} & 0x0f0f0f0fu;
    }
    const uint8_t* block = codes + sub * 192;
    const uint32_t low = load_dword(block + half * kLineBytes + 4 * r);
    const uint8_t* masks = block + 128 + half * 32 + r / 2;
    const int shift = static_cast<int>(4 * (r % 2));
    const Dwords high = {spread_bits(masks[0] >> shift & 15u), spread_bits(masks[8] >> shift & 15u),
                         spread_bits(masks[16] >> shift & 15u),
                         spread_bits(masks[24] >> shift & 15u)};
    return (Dwords{low, low >> 2, low >> 4, low >> 6} & 0x03030303u) | high;
}

// out[i] = scale * value[i] + offset for the 16 signed bytes that the codes stand for.
inline void decode_subgroup(Dwords codes, int bits, int selector, float scale, float offset,
                            float* out) {
#ifdef __AVX2__
    __m128i values = reinterpret_cast<__m128i>(codes);
    if (bits == kInt8) {
        values = _mm_xor_si128(values, _mm_set1_epi8(-128));
    } else if (bits == kInt4) {
        const void* grid = kGrids4[selector];
        values = _mm_shuffle_epi8(_mm_loadu_si128(static_cast<const __m128i*>(grid)), values);
    } else {
        const void* grid = kGrids3[selector];
        values = _mm_shuffle_epi8(_mm_loadl_epi64(static_cast<const __m128i*>(grid)), values);
    }
    const __m256 scales = _mm256_set1_ps(scale), offsets = _mm256_set1_ps(offset);
    const __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values));
    const __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(values, 8)));
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_mul_ps(low, scales), offsets));
    _mm256_storeu_ps(out + 8, _mm256_add_ps(_mm256_mul_ps(high, scales), offsets));
#else
    uint8_t bytes[kSubgroup];
    memcpy(bytes, &codes, sizeof(bytes));
    for (int i = 0; i < kSubgroup; ++i) {
        const int value = bits == kInt8   ? bytes[i] - 128
                          : bits == kInt4 ? kGrids4[selector][bytes[i]]
                                          : kGrids3[selector][bytes[i]];
        out[i] = scale * static_cast<float>(value) + offset;
    }
#endif
}

template <int kBits>
void dequantize_group(const uint8_t* group, int64_t rows, int64_t columns, int64_t stride,
                      float* out) {
    for (int64_t row = 0; row < rows; ++row) {
        const uint32_t header = load_dword(group + 4 * row);
        const float scale = from_bf16_bits(header >> 16);
        const float offset = kBits == kInt8 ? from_bf16_bits(header & 0xffff) : 0.0f;
        for (int64_t sub = 0; sub * kSubgroup < columns; ++sub) {
            const Dwords codes = subgroup_codes(group + kHeaderBytes, row, sub, kBits);
            const int selector = kBits == kInt8 ? 0 : header >> (2 * sub) & 3;
            float* to = out + row * stride + sub * kSubgroup;
            const int64_t count = columns - sub * kSubgroup;
            if (count >= kSubgroup) {
                decode_subgroup(codes, kBits, selector, scale, offset, to);
                continue;
            }
            float values[kSubgroup];
            decode_subgroup(codes, kBits, selector, scale, offset, values);
            memcpy(to, values, static_cast<size_t>(count) * sizeof(float));
        }
    }
}

// Decodes panels `first` to `last` - 1 of a packed matrix into out [rows, cols].
void dequantize_panels(int bits, const uint8_t* packed, int64_t rows, int64_t cols, float* out,
                       int64_t first, int64_t last) {
    const uint8_t* group = packed + first * panel_bytes(bits, cols);
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t row = panel * kPanel;
        const int64_t height = rows - row < kPanel ? rows - row : kPanel;
        for (int64_t col = 0; col < cols; col += kGroup, group += group_bytes(bits)) {
            const int64_t width = cols - col < kGroup ? cols - col : kGroup;
            float* to = out + row * cols + col;
            switch (bits) {
                case kInt8: dequantize_group<kInt8>(group, height, width, cols, to); break;
                case kInt4: dequantize_group<kInt4>(group, height, width, cols, to); break;
                default: dequantize_group<kInt3>(group, height, width, cols, to);
            }
        }
    }
}

}  // namespace
