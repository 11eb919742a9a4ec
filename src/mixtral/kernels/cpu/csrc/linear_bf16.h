// out = x w^T in bfloat16 with float32 sums, for weights as they lie in a checkpoint: row-major.
//
// Both operands are contiguous along K, so an output is a dot product: 32 products at a time go to
// the 16 float32 lanes of one accumulator (vdpbf16ps), which are added up at the end of every
// kBlock columns. Each output has one accumulator and one order of additions whatever the number
// of tokens, so a token's result does not depend on the batch it is in.
//
// Few tokens: a group of rows is streamed once from memory and every token meets it in registers;
// the time is that of reading the weights. Many tokens: a panel of kPanel rows by kBlock columns
// and the same columns of a chunk of tokens stay in the L2 cache while tiles of kTileTokens by
// kTileRows outputs, 24 accumulators, run over them; the time is that of the products.
//
// Nothing is repacked, so memory-mapped weights are used where they lie.
#pragma once

#include <stdint.h>

#include "low_bit.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

namespace {

// A whole row of the hidden size: fewer sums across lanes. With 1024, 2048 and 4096 columns two layers
// of 8x7B prefill at 207, 214 and 227 tokens/s.
constexpr int64_t kBlock = 4096;
constexpr int kTileRows = 4;
constexpr int kTileTokens = 6;
constexpr int64_t kFewTokens = 16;  // up to here reading the weights takes longer than multiplying

inline __m512bh load_bf16(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m512bh load_bf16_tail(const uint16_t* p, __mmask32 mask) {
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, p);
}

// Lanes 0-3, 4-7, 8-11 and 12-15 added to one another; _mm512_reduce_add_ps and casts would make
// GCC 12 warn of its own header.
inline __m128 fold_lanes(__m512 v) {
    const __m512d wide = _mm512_castps_pd(v);
    const __m256 high = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, wide, 1));
    const __m256 low = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, wide, 0));
    const __m256 eight = _mm256_add_ps(low, high);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

// partial[0] += sum of the lanes of a; the same order of additions as in add_four_sums.
inline void add_one_sum(__m512 a, float* partial) {
    const __m128 four = fold_lanes(a);
    const __m128 two = _mm_hadd_ps(four, four);
    partial[0] += _mm_cvtss_f32(_mm_hadd_ps(two, two));
}

// partial[0..3] += sums of the lanes of a, b, c, d.
inline void add_four_sums(__m512 a, __m512 b, __m512 c, __m512 d, float* partial) {
    const __m128 ab = _mm_hadd_ps(fold_lanes(a), fold_lanes(b));
    const __m128 cd = _mm_hadd_ps(fold_lanes(c), fold_lanes(d));
    _mm_storeu_ps(partial, _mm_add_ps(_mm_loadu_ps(partial), _mm_hadd_ps(ab, cd)));
}

// Adds to partial[t * kPanel + r] the products of `count` columns of token t and row r.
template <int kT, int kR, bool kPrefetch>
inline void add_tile(const uint16_t* x, const uint16_t* w, int64_t cols, int64_t count,
                     float* partial) {
    static_assert(kR == 1 || kR == 4, "sums are added one or four at a time");
    __m512 acc[kT][kR];
#pragma GCC unroll 8
    for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 8
        for (int r = 0; r < kR; ++r) {
            acc[t][r] = _mm512_setzero_ps();
        }
    }
    int64_t k = 0;
#pragma GCC unroll 1
    for (; k + 32 <= count; k += 32) {
        __m512bh rows[kR];
#pragma GCC unroll 8
        for (int r = 0; r < kR; ++r) {
            rows[r] = load_bf16(w + r * cols + k);
            if (kPrefetch) {
                // The same columns of the next group of rows: its turn comes after this group's.
                _mm_prefetch(reinterpret_cast<const char*>(w + (r + kR) * cols + k), _MM_HINT_T1);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < kT; ++t) {
            const __m512bh token = load_bf16(x + t * cols + k);
#pragma GCC unroll 8
            for (int r = 0; r < kR; ++r) {
                acc[t][r] = _mm512_dpbf16_ps(acc[t][r], token, rows[r]);
            }
        }
    }
    if (k < count) {
        const __mmask32 mask = (1u << (count - k)) - 1u;
#pragma GCC unroll 8
        for (int t = 0; t < kT; ++t) {
            const __m512bh token = load_bf16_tail(x + t * cols + k, mask);
#pragma GCC unroll 8
            for (int r = 0; r < kR; ++r) {
                acc[t][r] = _mm512_dpbf16_ps(acc[t][r], token,
                                             load_bf16_tail(w + r * cols + k, mask));
            }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < kT; ++t) {
        if (kR == 4) {
            add_four_sums(acc[t][0], acc[t][kR > 1 ? 1 : 0], acc[t][kR > 2 ? 2 : 0],
                          acc[t][kR > 3 ? 3 : 0], partial + t * kPanel);
        } else {
            add_one_sum(acc[t][0], partial + t * kPanel);
        }
    }
}

template <int kR, bool kPrefetch>
inline void add_tokens(const uint16_t* x, const uint16_t* w, int64_t cols, int64_t count,
                       int64_t tokens, float* partial) {
    // Tiles of even size: 8 tokens run as 4 + 4, not as 6 + 2.
    for (int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens; tiles > 0; --tiles) {
        const int64_t size = (tokens + tiles - 1) / tiles;
        switch (size) {
            case 1: add_tile<1, kR, kPrefetch>(x, w, cols, count, partial); break;
            case 2: add_tile<2, kR, kPrefetch>(x, w, cols, count, partial); break;
            case 3: add_tile<3, kR, kPrefetch>(x, w, cols, count, partial); break;
            case 4: add_tile<4, kR, kPrefetch>(x, w, cols, count, partial); break;
            case 5: add_tile<5, kR, kPrefetch>(x, w, cols, count, partial); break;
            default: add_tile<6, kR, kPrefetch>(x, w, cols, count, partial); break;
        }
        x += size * cols;
        partial += size * kPanel;
        tokens -= size;
    }
}

template <bool kPrefetch>
inline void add_row_group(const uint16_t* x, const uint16_t* w, int64_t cols, int64_t count,
                          int64_t tokens, int64_t rows, float* partial) {
    if (rows >= kTileRows) {
        add_tokens<kTileRows, kPrefetch>(x, w, cols, count, tokens, partial);
        return;
    }
    for (int64_t r = 0; r < rows; ++r) {
        add_tokens<1, kPrefetch>(x, w + r * cols, cols, count, tokens, partial + r);
    }
}

// sums[t * kPanel + r] of one chunk of tokens and of the panel that begins at `first_row`.
// `all_tokens` is how many there are beside these; only the speed depends on it.
inline void bf16_panel(const uint16_t* x, const uint16_t* weight, int64_t tokens,
                       int64_t all_tokens, int64_t weight_rows, int64_t cols, int64_t first_row,
                       float* sums) {
    const int64_t rows = weight_rows - first_row < kPanel ? weight_rows - first_row : kPanel;
    const uint16_t* w = weight + first_row * cols;
    for (int64_t i = 0; i < tokens * kPanel; ++i) {
        sums[i] = 0.0f;
    }
    if (all_tokens <= kFewTokens) {
        // Rows outermost: memory is read from front to back, each byte once.
        for (int64_t r = 0; r < rows; r += kTileRows) {
            for (int64_t k = 0; k < cols; k += kBlock) {
                const int64_t count = cols - k < kBlock ? cols - k : kBlock;
                add_row_group<true>(x + k, w + r * cols + k, cols, count, tokens, rows - r,
                                    sums + r);
            }
        }
        return;
    }
    for (int64_t k = 0; k < cols; k += kBlock) {
        const int64_t count = cols - k < kBlock ? cols - k : kBlock;
        for (int64_t r = 0; r < rows; r += kTileRows) {
            add_row_group<false>(x + k, w + r * cols + k, cols, count, tokens, rows - r, sums + r);
        }
    }
}

}  // namespace
#else
#include "lanes.h"

namespace {

// As above without bfloat16 instructions: both operands are widened to float32 in registers. Two
// neighbours lie in one dword; shifting and masking give the even and the odd columns of either
// operand, so nothing has to be put in order.
constexpr int64_t kBlock = 2048;
constexpr int64_t kStep = 2 * kWidth;  // columns per register of dwords

struct Widened {
    Floats even, odd;
};

inline Widened widen_columns(const uint16_t* p) {
    const Ints pairs = load_ints(p);
    return {first_of_pair(pairs), second_of_pair(pairs)};
}

// The last columns of a block, filled up with zeros.
inline Widened widen_tail(const uint16_t* p, int64_t count) {
    uint16_t padded[kStep] = {};
    memcpy(padded, p, static_cast<size_t>(count) * sizeof(uint16_t));
    return widen_columns(padded);
}

inline float sum_of_lanes(Floats value) {
    float lanes[kWidth];
    store_floats(lanes, value);
    for (int half = kWidth / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

// Adds to partial[t * kPanel + r] the products of `count` columns of token t and row r. Each output
// has one accumulator and one order of additions whatever the size of the tile.
template <int kT, int kR>
inline void add_tile(const uint16_t* x, const uint16_t* w, int64_t cols, int64_t count,
                     float* partial) {
    Floats acc[kT][kR] = {};
    const auto add_columns = [&](int64_t k, const auto& widen) {
        Widened rows[kR];
#pragma GCC unroll 8
        for (int r = 0; r < kR; ++r) {
            rows[r] = widen(w + r * cols + k);
        }
#pragma GCC unroll 8
        for (int t = 0; t < kT; ++t) {
            const Widened token = widen(x + t * cols + k);
#pragma GCC unroll 8
            for (int r = 0; r < kR; ++r) {
                acc[t][r] = multiply_add(token.even, rows[r].even, acc[t][r]);
                acc[t][r] = multiply_add(token.odd, rows[r].odd, acc[t][r]);
            }
        }
    };
    int64_t k = 0;
    for (; k + kStep <= count; k += kStep) {
        add_columns(k, widen_columns);
    }
    if (k < count) {
        const int64_t rest = count - k;
        add_columns(k, [rest](const uint16_t* p) { return widen_tail(p, rest); });
    }
    for (int t = 0; t < kT; ++t) {
        for (int r = 0; r < kR; ++r) {
            partial[t * kPanel + r] += sum_of_lanes(acc[t][r]);
        }
    }
}

template <int kR>
inline void add_tokens(const uint16_t* x, const uint16_t* w, int64_t cols, int64_t count,
                       int64_t tokens, float* partial) {
    for (; tokens >= 4; tokens -= 4, x += 4 * cols, partial += 4 * kPanel) {
        add_tile<4, kR>(x, w, cols, count, partial);
    }
    switch (tokens) {
        case 3: add_tile<3, kR>(x, w, cols, count, partial); break;
        case 2: add_tile<2, kR>(x, w, cols, count, partial); break;
        case 1: add_tile<1, kR>(x, w, cols, count, partial); break;
        default: break;
    }
}

inline void bf16_panel(const uint16_t* x, const uint16_t* weight, int64_t tokens, int64_t,
                       int64_t weight_rows, int64_t cols, int64_t first_row, float* sums) {
    const int64_t rows = weight_rows - first_row < kPanel ? weight_rows - first_row : kPanel;
    memset(sums, 0, static_cast<size_t>(tokens * kPanel) * sizeof(float));
    for (int64_t k = 0; k < cols; k += kBlock) {
        const int64_t count = cols - k < kBlock ? cols - k : kBlock;
        const uint16_t* w = weight + first_row * cols + k;
        int64_t r = 0;
        // Two rows by four tokens, or four rows by one: what 16 registers hold.
        if (tokens == 1) {
            for (; r + 4 <= rows; r += 4) {
                add_tile<1, 4>(x + k, w + r * cols, cols, count, sums + r);
            }
        }
        for (; r + 2 <= rows; r += 2) {
            add_tokens<2>(x + k, w + r * cols, cols, count, tokens, sums + r);
        }
        if (r < rows) {
            add_tokens<1>(x + k, w + r * cols, cols, count, tokens, sums + r);
        }
    }
}

}  // namespace
#endif
