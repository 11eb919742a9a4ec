// Products of packed weights with tiles of int8 tokens, for levels without VNNI.
//
// The same layout, the same integer sums and the same order of float operations as in tile_vnni.h,
// so the results are equal to the bit. A group is decoded once per tile into int16, [q][row][4], and
// multiplied by pairs into int32 (pmaddwd): unlike the byte product of AVX2, this cannot saturate.
#pragma once

#include "activations.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

typedef int64_t Ahead;
constexpr Ahead kAhead = 0;
constexpr int64_t kDecoded = kGroup * kPanel;

inline int16_t code_at(const uint8_t* codes, int64_t row, int64_t k, int bits) {
    const int64_t half = row / 16, r = row % 16;
    if (bits == kInt8) {
        return codes[(k / 4 * 2 + half) * kLineBytes + 4 * r + k % 4];
    }
    if (bits == kInt4) {
        const uint8_t byte = codes[(k / 8 * 2 + half) * kLineBytes + 4 * r + k % 4];
        return k / 4 % 2 ? byte >> 4 : byte & 15;
    }
    const uint8_t* block = codes + k / 16 * 192;
    const int i = static_cast<int>(k / 4 % 4);
    const int low = block[half * kLineBytes + 4 * r + k % 4] >> (2 * i) & 3;
    const int64_t bit = 4 * r + k % 4;
    const int high = block[128 + half * 32 + 8 * i + bit / 8] >> (bit % 8) & 1;
    return static_cast<int16_t>(4 * high + low);
}

// The signed value of a weight in units of its scale.
inline int16_t value_at(const uint8_t* group, int64_t row, int64_t k, int bits) {
    const int16_t code = code_at(group + kHeaderBytes, row, k, bits);
    if (bits == kInt8) {
        return static_cast<int16_t>(code - 128);
    }
    uint32_t header;
    memcpy(&header, group + 4 * row, sizeof(header));
    const int selector = header >> (2 * (k / kSubgroup)) & 3;
    return bits == kInt4 ? kGrids4[selector][code] : kGrids3[selector][code];
}

#ifdef __AVX2__
inline __m256i load32(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline void widen(__m256i bytes, int16_t* out) {
    const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
    const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), high);
}

// Looks codes up in all four grids and keeps the one that each row's selector names.
struct Picker {
    __m256i grids[4], is[4];

    explicit Picker(const int8_t* first, int size) {
        for (int s = 0; s < 4; ++s) {
            alignas(16) int8_t lane[16] = {};
            memcpy(lane, first + s * size, static_cast<size_t>(size));
            grids[s] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<__m128i*>(lane)));
        }
    }

    // Eight rows: their headers, and the subgroup that comes.
    void choose(__m256i headers, int sub) {
        const __m256i selector = _mm256_and_si256(
            _mm256_srl_epi32(headers, _mm_cvtsi32_si128(2 * sub)), _mm256_set1_epi32(3));
        for (int s = 0; s < 4; ++s) {
            is[s] = _mm256_cmpeq_epi32(selector, _mm256_set1_epi32(s));
        }
    }

    __m256i pick(__m256i codes) const {
        __m256i value = _mm256_and_si256(_mm256_shuffle_epi8(grids[0], codes), is[0]);
        for (int s = 1; s < 4; ++s) {
            value = _mm256_or_si256(value,
                                    _mm256_and_si256(_mm256_shuffle_epi8(grids[s], codes), is[s]));
        }
        return value;
    }
};

inline void decode_group(const uint8_t* group, int bits, int16_t* out) {
    const uint8_t* codes = group + kHeaderBytes;
    if (bits == kInt8) {
        for (int64_t i = 0; i < kDecoded; i += 32) {
            widen(_mm256_xor_si256(load32(codes + i), _mm256_set1_epi8(-128)), out + i);
        }
        return;
    }
    Picker picker = bits == kInt4 ? Picker(&kGrids4[0][0], 16) : Picker(&kGrids3[0][0], 8);
    const __m256i nibble = _mm256_set1_epi8(15), two = _mm256_set1_epi8(3);
    const __m256i bit_of_byte = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i byte_of_mask = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                  2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    for (int64_t rows = 0; rows < kPanel; rows += 8) {
        const __m256i headers = load32(group + 4 * rows);
        const int64_t half = rows / 16, part = rows % 16 / 8;  // which line, which 32 bytes of it
        for (int sub = 0; sub < 8; ++sub) {
            picker.choose(headers, sub);
            if (bits == kInt4) {
                for (int pair = 0; pair < 2; ++pair) {
                    const int64_t q = 4 * sub + 2 * pair;
                    const __m256i raw = load32(codes + (q + half) * kLineBytes + 32 * part);
                    int16_t* to = out + (q * kPanel + rows) * 4;
                    widen(picker.pick(_mm256_and_si256(raw, nibble)), to);
                    widen(picker.pick(_mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble)),
                          to + kPanel * 4);
                }
                continue;
            }
            const uint8_t* block = codes + sub * 192;
            const __m256i raw = load32(block + half * kLineBytes + 32 * part);
            for (int i = 0; i < 4; ++i) {
                int32_t mask;
                memcpy(&mask, block + 128 + half * 32 + 8 * i + 4 * part, sizeof(mask));
                const __m256i bits_of_row = _mm256_and_si256(
                    _mm256_shuffle_epi8(_mm256_set1_epi32(mask), byte_of_mask), bit_of_byte);
                const __m256i is_set = _mm256_cmpeq_epi8(bits_of_row, bit_of_byte);
                const __m256i low = _mm256_and_si256(
                    _mm256_srl_epi16(raw, _mm_cvtsi32_si128(2 * i)), two);
                const __m256i code =
                    _mm256_or_si256(low, _mm256_and_si256(is_set, _mm256_set1_epi8(4)));
                widen(picker.pick(code), out + ((4 * sub + i) * kPanel + rows) * 4);
            }
        }
    }
}

// sums[row] = products of a decoded group with one token of a tile of m.
inline void dot_group(const int16_t* weights, const uint8_t* dwords, int m, int32_t* sums) {
    __m256i acc[8];
    for (int i = 0; i < 8; ++i) {
        acc[i] = _mm256_setzero_si256();
    }
    for (int64_t q = 0; q < kGroup / 4; ++q) {
        int32_t dword;
        memcpy(&dword, dwords + q * 4 * m, sizeof(dword));
        const __m256i a = _mm256_cvtepi8_epi16(_mm_set1_epi32(dword));
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            const __m256i w = _mm256_loadu_si256(
                reinterpret_cast<const __m256i*>(weights + q * kPanel * 4 + i * 16));
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(w, a));
        }
    }
    for (int i = 0; i < 8; i += 2) {
        const __m256i folded =
            _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[i], acc[i + 1]), 0xd8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 4 * i), folded);
    }
}
#else
inline void decode_group(const uint8_t* group, int bits, int16_t* out) {
    for (int64_t k = 0; k < kGroup; ++k) {
        for (int64_t row = 0; row < kPanel; ++row) {
            out[(k / 4 * kPanel + row) * 4 + k % 4] = value_at(group, row, k, bits);
        }
    }
}

inline void dot_group(const int16_t* weights, const uint8_t* dwords, int m, int32_t* sums) {
    memset(sums, 0, kPanel * sizeof(int32_t));
    for (int64_t q = 0; q < kGroup / 4; ++q) {
        int8_t a[4];
        memcpy(a, dwords + q * 4 * m, sizeof(a));
        const int16_t* w = weights + q * kPanel * 4;
        for (int64_t row = 0; row < kPanel; ++row) {
            sums[row] += w[4 * row] * a[0] + w[4 * row + 1] * a[1] + w[4 * row + 2] * a[2] +
                         w[4 * row + 3] * a[3];
        }
    }
}
#endif

inline void plain_tile(int bits, int m, const uint8_t* w, const uint8_t* act, int64_t groups,
                       float* out) {
    int16_t decoded[kDecoded];
    int32_t sums[kPanel];
    memset(out, 0, static_cast<size_t>(m) * kPanel * sizeof(float));
    for (int64_t g = 0; g < groups; ++g) {
        decode_group(w, bits, decoded);
        for (int t = 0; t < m; ++t) {
            dot_group(decoded, act + 12 * m + 4 * t, m, sums);
            float scale, scaled_sum;
            memcpy(&scale, act + 4 * (m + t), sizeof(scale));
            memcpy(&scaled_sum, act + 4 * (2 * m + t), sizeof(scaled_sum));
            for (int64_t row = 0; row < kPanel; ++row) {
                uint32_t header;
                memcpy(&header, w + 4 * row, sizeof(header));
                float* sum = out + t * kPanel + row;
                *sum = fmaf(static_cast<float>(sums[row]) * scale, from_bf16_bits(header >> 16), *sum);
                if (bits == kInt8) {
                    *sum = fmaf(scaled_sum, from_bf16_bits(header & 0xffff), *sum);
                }
            }
        }
        act += m * kRowGroupBytes;
        w += group_bytes(bits);
    }
}

template <int kBits, int kM>
void plain_tile_of(const uint8_t* w, const uint8_t* act, int64_t groups, float* out, Ahead) {
    plain_tile(kBits, kM, w, act, groups, out);
}

typedef void (*TileKernel)(const uint8_t* w, const uint8_t* act, int64_t groups, float* out,
                           Ahead ahead);
#define TILES_OF(bits)                                                                           \
    {                                                                                            \
        plain_tile_of<bits, 1>, plain_tile_of<bits, 2>, plain_tile_of<bits, 3>,                  \
            plain_tile_of<bits, 4>, plain_tile_of<bits, 5>, plain_tile_of<bits, 6>,              \
            plain_tile_of<bits, 7>, plain_tile_of<bits, 8>, plain_tile_of<bits, 9>,              \
            plain_tile_of<bits, 10>, plain_tile_of<bits, 11>, plain_tile_of<bits, 12>            \
    }
constexpr TileKernel kTiles3[kMaxTile] = TILES_OF(kInt3);
constexpr TileKernel kTiles4[kMaxTile] = TILES_OF(kInt4);
constexpr TileKernel kTiles8[kMaxTile] = TILES_OF(kInt8);
constexpr const TileKernel* kTilesDecoded = kTiles8;

// These kernels decode a group once per tile anyway.
constexpr int64_t kRowsToDecode = INT64_MAX;

inline void decode_panel(int64_t, const uint8_t*, int64_t, uint8_t*) {}

}  // namespace
