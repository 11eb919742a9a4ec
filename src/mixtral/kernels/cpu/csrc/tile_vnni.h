// Products of packed weights with tiles of int8 tokens, for AVX-512 with VNNI and VBMI.
//
// vpdpbusd multiplies 64 unsigned weight codes with 64 signed activations and adds them by fours
// into 16 int32. A line of a panel gives 16 rows at once; the activation, four columns of one
// token, is the same dword in all lanes. Grid values come from one byte shuffle (vpermb) of a table
// with all four grids: the code and the selector of its 16 columns make the index.
#pragma once

#include "activations.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#include <immintrin.h>

namespace {

// How far ahead of the stream to prefetch, in bytes; 0: not at all.
typedef int64_t Ahead;
constexpr Ahead kAhead = 4096;

// Unsigned grid values by the index that the decoder makes.
struct Tables {
    uint8_t four[64];   // [selector][code]
    uint8_t three[64];  // see decode3
};

constexpr Tables make_tables() {
    Tables tables = {};
    for (int s = 0; s < 4; ++s) {
        for (int code = 0; code < 16; ++code) {
            tables.four[16 * s + code] = static_cast<uint8_t>(kGrids4[s][code] + 128);
        }
        for (int low = 0; low < 4; ++low) {
            const int index = 16 + 4 * s + low;
            tables.three[index] = static_cast<uint8_t>(kGrids3[s][low] + 128);
            tables.three[2 * index] = static_cast<uint8_t>(kGrids3[s][4 + low] + 128);
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();
constexpr const uint8_t* kTable4 = kTables.four;
constexpr const uint8_t* kTable3 = kTables.three;

inline __m512i load_line(const uint8_t* p) { return _mm512_loadu_si512(p); }

inline int32_t load_int(const uint8_t* p) {
    int32_t value;
    memcpy(&value, p, sizeof(value));
    return value;
}

inline float load_float(const uint8_t* p) {
    float value;
    memcpy(&value, p, sizeof(value));
    return value;
}

inline __mmask64 load_mask(const uint8_t* p) {
    uint64_t value;
    memcpy(&value, p, sizeof(value));
    return value;
}

inline void dot(__m512i& sum, __m512i weights, __m512i activations) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(activations));
}

inline void ahead_of(const uint8_t* line, Ahead ahead) {
    if (ahead) {
        _mm_prefetch(reinterpret_cast<const char*>(line + ahead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(line + 64 + ahead), _MM_HINT_T0);
    }
}

inline __m512 scales(const uint8_t* header) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(load_line(header), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void add_to(float* sums, __m512 a, __m512 b) {
    _mm512_storeu_ps(sums, _mm512_fmadd_ps(a, b, _mm512_loadu_ps(sums)));
}

inline __m512 offsets(const uint8_t* header) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(load_line(header), 16));
}

// Byte `pick` of every dword in all four bytes of it.
inline __m512i spread(__m512i values, __m512i pick) {
    const __m512i lanes = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    return _mm512_shuffle_epi8(values, _mm512_or_si512(lanes, pick));
}

// Index: code in bits 0-3, selector in bits 4-5; the shuffle ignores bits 6 and 7.
inline __m512i decode(__m512i codes, __m512i selectors, __m512i nibble, __m512i table) {
    // 0xca: bits of `codes` where `nibble` has ones, else of `selectors`.
    const __m512i index = _mm512_ternarylogic_epi32(nibble, codes, selectors, 0xca);
    return _mm512_permutexvar_epi8(index, table);
}

// Selector in bits 2-3 and a one in bit 4; see decode3.
inline __m512i selectors3(__m512i turned) {
    return _mm512_ternarylogic_epi32(turned, _mm512_set1_epi8(0x0c), _mm512_set1_epi8(0x10), 0xea);
}

// Index: low bits of the code in bits 0-1, selector in bits 2-3, a one in bit 4; twice that where
// the high bit of the code is set, which needs no register for another constant.
inline __m512i decode3(__m512i low_bits, __m512i selectors, __m512i low, __mmask64 high,
                       __m512i table) {
    __m512i index = _mm512_ternarylogic_epi32(low, low_bits, selectors, 0xca);
    index = _mm512_mask_add_epi8(index, high, index, index);
    return _mm512_permutexvar_epi8(index, table);
}

#define ROWS_1(X) X(0)
#define ROWS_2(X) ROWS_1(X) X(1)
#define ROWS_3(X) ROWS_2(X) X(2)
#define ROWS_4(X) ROWS_3(X) X(3)
#define ROWS_5(X) ROWS_4(X) X(4)
#define ROWS_6(X) ROWS_5(X) X(5)
#define ROWS_7(X) ROWS_6(X) X(6)
#define ROWS_8(X) ROWS_7(X) X(7)
#define ROWS_9(X) ROWS_8(X) X(8)
#define ROWS_10(X) ROWS_9(X) X(9)
#define ROWS_11(X) ROWS_10(X) X(10)
#define ROWS_12(X) ROWS_11(X) X(11)
#define TILE 1
#include "tile_vnni.inc"
#define TILE 2
#include "tile_vnni.inc"
#define TILE 3
#include "tile_vnni.inc"
#define TILE 4
#include "tile_vnni.inc"
#define TILE 5
#include "tile_vnni.inc"
#define TILE 6
#include "tile_vnni.inc"
#define TILE 7
#include "tile_vnni.inc"
#define TILE 8
#include "tile_vnni.inc"
#define TILE 9
#include "tile_vnni.inc"
#define TILE 10
#include "tile_vnni.inc"
#define TILE 11
#include "tile_vnni.inc"
#define TILE 12
#include "tile_vnni.inc"

typedef void (*TileKernel)(const uint8_t* w, const uint8_t* act, int64_t groups, float* out,
                           Ahead ahead);
constexpr TileKernel kTiles3[kMaxTile] = {
    tile3_1, tile3_2, tile3_3, tile3_4,
    tile3_5, tile3_6, tile3_7, tile3_8,
    tile3_9, tile3_10, tile3_11, tile3_12};
constexpr TileKernel kTiles4[kMaxTile] = {
    tile4_1, tile4_2, tile4_3, tile4_4,
    tile4_5, tile4_6, tile4_7, tile4_8,
    tile4_9, tile4_10, tile4_11, tile4_12};
constexpr TileKernel kTiles8[kMaxTile] = {
    tile8_1<true>, tile8_2<true>, tile8_3<true>, tile8_4<true>,
    tile8_5<true>, tile8_6<true>, tile8_7<true>, tile8_8<true>,
    tile8_9<true>, tile8_10<true>, tile8_11<true>, tile8_12<true>};
constexpr TileKernel kTilesDecoded[kMaxTile] = {
    tile8_1<false>, tile8_2<false>, tile8_3<false>, tile8_4<false>,
    tile8_5<false>, tile8_6<false>, tile8_7<false>, tile8_8<false>,
    tile8_9<false>, tile8_10<false>, tile8_11<false>, tile8_12<false>};

// Rows of a chunk from which decoding the panel first is faster (measured: 24 to 36).
constexpr int64_t kRowsToDecode = 30;

// Turns an int4 panel into one of unsigned bytes, in the layout of int8.
inline void decode_panel4(const uint8_t* w, int64_t groups, uint8_t* out) {
    const __m512i table = _mm512_loadu_si512(kTable4);
    const __m512i nibble = _mm512_set1_epi8(0x0f);
    for (int64_t g = 0; g < groups; ++g) {
        memcpy(out, w, kHeaderBytes);
        const uint8_t* line = w + kHeaderBytes;
        uint8_t* to = out + kHeaderBytes;
        for (int half = 0; half < 2; ++half) {
            const __m512i pick = _mm512_set1_epi32(half * 0x01010101);
            __m512i sel0 = _mm512_rol_epi32(spread(load_line(w), pick), 4);
            __m512i sel1 = _mm512_rol_epi32(spread(load_line(w + 64), pick), 4);
            for (int pair = 0; pair < 8; ++pair, line += 128, to += 256) {
                const __m512i raw0 = load_line(line), raw1 = load_line(line + 64);
                const __m512i high0 = _mm512_srli_epi16(raw0, 4);
                const __m512i high1 = _mm512_srli_epi16(raw1, 4);
                _mm512_storeu_si512(to, decode(raw0, sel0, nibble, table));
                _mm512_storeu_si512(to + 64, decode(raw1, sel1, nibble, table));
                _mm512_storeu_si512(to + 128, decode(high0, sel0, nibble, table));
                _mm512_storeu_si512(to + 192, decode(high1, sel1, nibble, table));
                if (pair % 2 == 1) {
                    sel0 = _mm512_ror_epi32(sel0, 2);
                    sel1 = _mm512_ror_epi32(sel1, 2);
                }
            }
        }
        w += group_bytes(kInt4);
        out += group_bytes(kInt8);
    }
}

inline void decode_panel3(const uint8_t* w, int64_t groups, uint8_t* out) {
    const __m512i table = _mm512_loadu_si512(kTable3);
    const __m512i low = _mm512_set1_epi8(0x03);
    for (int64_t g = 0; g < groups; ++g) {
        memcpy(out, w, kHeaderBytes);
        const uint8_t* line = w + kHeaderBytes;
        uint8_t* to = out + kHeaderBytes;
        for (int half = 0; half < 2; ++half) {
            const __m512i pick = _mm512_set1_epi32(half * 0x01010101);
            __m512i turn0 = _mm512_rol_epi32(spread(load_line(w), pick), 2);
            __m512i turn1 = _mm512_rol_epi32(spread(load_line(w + 64), pick), 2);
            for (int sub = 0; sub < 4; ++sub, line += 192) {
                const __m512i sel0 = selectors3(turn0), sel1 = selectors3(turn1);
                __m512i raw0 = load_line(line), raw1 = load_line(line + 64);
                for (int i = 0; i < 4; ++i, to += 128) {
                    const __mmask64 high0 = load_mask(line + 128 + 8 * i);
                    const __mmask64 high1 = load_mask(line + 160 + 8 * i);
                    _mm512_storeu_si512(to, decode3(raw0, sel0, low, high0, table));
                    _mm512_storeu_si512(to + 64, decode3(raw1, sel1, low, high1, table));
                    raw0 = _mm512_srli_epi16(raw0, 2);
                    raw1 = _mm512_srli_epi16(raw1, 2);
                }
                turn0 = _mm512_ror_epi32(turn0, 2);
                turn1 = _mm512_ror_epi32(turn1, 2);
            }
        }
        w += group_bytes(kInt3);
        out += group_bytes(kInt8);
    }
}

inline void decode_panel(int64_t format, const uint8_t* w, int64_t groups, uint8_t* out) {
    if (format == kInt4) {
        decode_panel4(w, groups, out);
    } else {
        decode_panel3(w, groups, out);
    }
}

}  // namespace
#endif
