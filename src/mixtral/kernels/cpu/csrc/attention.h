// Grouped-query attention over the block KV cache, for prefill and decode alike.
//
// The cache holds tiles of 16 tokens (a block is one or more tiles). In a tile, keys are turned: a
// line of 64 bytes has channels 2 i and 2 i + 1 of all 16 tokens, so the scores of 16 tokens build
// up in 16 lanes with no sum across lanes. Values lie token by token. Both are bfloat16.
//
// Softmax runs along blocks of 64 tokens with a running maximum (arXiv:2205.14135, section 3.1).
// The blocks are those of the sequence, and each lane is a chain of its own: a token's result does
// not depend on what else is in the step, nor on whether it came by prefill or decode.
#pragma once

#include <math.h>

#include "lanes.h"
#include "low_bit.h"

namespace {

constexpr int64_t kTileTokens16 = 16;
constexpr int64_t kKeyBlock = 64;
#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 4;   // 16 sums of 16 lanes
constexpr int kTilesAtOnce = 4;
#else
constexpr int kRowsAtOnce = 2;
constexpr int kTilesAtOnce = 1;
#endif
constexpr int64_t kMaxRows = 32;  // query rows of one job: tokens times heads of a group

// Where a layer's keys and values lie.
struct CacheLayer {
    uint8_t* keys;
    uint8_t* values;
    int64_t kv_heads, head_dim;

    int64_t key_tile_bytes() const { return head_dim * kTileTokens16 * 2; }
    int64_t value_row() const { return divide_up(head_dim, 32) * 32; }
    int64_t value_tile_bytes() const { return value_row() * kTileTokens16 * 2; }

    uint8_t* key_tile(int64_t tile, int64_t head) const {
        return keys + (tile * kv_heads + head) * key_tile_bytes();
    }
    uint8_t* value_tile(int64_t tile, int64_t head) const {
        return values + (tile * kv_heads + head) * value_tile_bytes();
    }

    void write(int64_t slot, int64_t head, const float* key, const float* value) const {
        uint8_t* k = key_tile(slot / kTileTokens16, head) + slot % kTileTokens16 * 4;
        for (int64_t d = 0; d < head_dim; d += 2) {
            const uint32_t pair = to_bf16_bits(key[d]) |
                                  static_cast<uint32_t>(to_bf16_bits(key[d + 1])) << 16;
            memcpy(k + d / 2 * kTileTokens16 * 4, &pair, sizeof(pair));
        }
        uint8_t* v = value_tile(slot / kTileTokens16, head) + slot % kTileTokens16 * value_row() * 2;
        for (int64_t d = 0; d < value_row(); ++d) {
            const uint16_t bits = d < head_dim ? to_bf16_bits(value[d]) : 0;
            memcpy(v + 2 * d, &bits, sizeof(bits));
        }
    }
};

// Blocks of one sequence; token i lies in slot(i).
struct BlockTable {
    const int64_t* blocks;
    int64_t block_size;

    int64_t slot(int64_t token) const {
        return blocks[token / block_size] * block_size + token % block_size;
    }
    int64_t tile(int64_t token) const { return slot(token) / kTileTokens16; }
};

// scores[row][64]: rows of queries [kRowsAtOnce][head_dim] against one or more tiles of keys.
template <int kTiles>
inline void score_tiles(const float* const* queries, const uint8_t* const* keys, int64_t head_dim,
                        float* const* scores) {
    for (int part = 0; part < kRegisters; ++part) {
        Floats sums[kRowsAtOnce][kTiles];
#pragma GCC unroll 4
        for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 4
            for (int t = 0; t < kTiles; ++t) {
                sums[r][t] = Floats{};
            }
        }
#pragma GCC unroll 1
        for (int64_t d = 0; d < head_dim; d += 2) {
            Floats even[kTiles], odd[kTiles];
#pragma GCC unroll 4
            for (int t = 0; t < kTiles; ++t) {
                const Ints pairs =
                    load_ints(keys[t] + d * kTileTokens16 * 2 + part * kWidth * 4);
                even[t] = first_of_pair(pairs);
                odd[t] = second_of_pair(pairs);
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRowsAtOnce; ++r) {
                const Floats q0 = all(queries[r][d]), q1 = all(queries[r][d + 1]);
#pragma GCC unroll 4
                for (int t = 0; t < kTiles; ++t) {
                    sums[r][t] = multiply_add(even[t], q0, sums[r][t]);
                    sums[r][t] = multiply_add(odd[t], q1, sums[r][t]);
                }
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 4
            for (int t = 0; t < kTiles; ++t) {
                store_floats(scores[r] + t * kTileTokens16 + part * kWidth, sums[r][t]);
            }
        }
    }
}

// out[row][channel pair] += weight[row][key] * value[key]; even channels in the first half of 32.
inline void add_values(const uint8_t* const* tiles, int64_t value_row, int64_t count,
                       const float* const* weights, float* const* out) {
    for (int64_t line = 0; line < value_row / 32; ++line) {
        for (int part = 0; part < kRegisters; ++part) {
            Floats even[kRowsAtOnce], odd[kRowsAtOnce];
#pragma GCC unroll 4
            for (int r = 0; r < kRowsAtOnce; ++r) {
                even[r] = load_floats(out[r] + line * 32 + part * kWidth);
                odd[r] = load_floats(out[r] + line * 32 + 16 + part * kWidth);
            }
#pragma GCC unroll 1
            for (int64_t key = 0; key < count; ++key) {
                const uint8_t* row = tiles[key / kTileTokens16] +
                                     key % kTileTokens16 * value_row * 2 + line * 64;
                const Ints pairs = load_ints(row + part * kWidth * 4);
                const Floats v0 = first_of_pair(pairs), v1 = second_of_pair(pairs);
#pragma GCC unroll 4
                for (int r = 0; r < kRowsAtOnce; ++r) {
                    const Floats weight = all(weights[r][key]);
                    even[r] = multiply_add(v0, weight, even[r]);
                    odd[r] = multiply_add(v1, weight, odd[r]);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRowsAtOnce; ++r) {
                store_floats(out[r] + line * 32 + part * kWidth, even[r]);
                store_floats(out[r] + line * 32 + 16 + part * kWidth, odd[r]);
            }
        }
    }
}

// Turns scores into weights e^(score - maximum) and scales what was summed up before.
inline void soften(float* scores, float* largest, float* total, float* out, int64_t width) {
    Floats best = load_floats(scores);
    for (int64_t i = kWidth; i < kKeyBlock; i += kWidth) {
        best = larger(best, load_floats(scores + i));
    }
    const float block_largest = largest_lane(best);
    if (block_largest > *largest) {
        const float shift = expf(*largest - block_largest);  // 0 at the first block
        for (int64_t i = 0; i < width; ++i) {
            out[i] *= shift;
        }
        *total *= shift;
        *largest = block_largest;
    }
    float sums[kLanes] = {};
    for (int64_t i = 0; i < kKeyBlock; i += kWidth) {
        const Floats weight = exponential(load_floats(scores + i) - *largest);
        store_floats(scores + i, weight);
        float* lanes = sums + i % kLanes;
        store_floats(lanes, load_floats(lanes) + weight);
    }
    *total += tree_sum(sums);
}

// What one job works on: query rows of one sequence that share a key head.
struct QueryBlock {
    const float* query[kMaxRows];  // [head_dim], already scaled
    float* out[kMaxRows];          // [head_dim]
    int64_t position[kMaxRows];    // of the row's token in its sequence
    int64_t rows;
};

inline void attend(const QueryBlock& block, const CacheLayer& cache, int64_t head,
                   const BlockTable& table, int64_t window) {
    constexpr int64_t kMaxWidth = 512;  // head_dim, checked by the caller
    alignas(64) float sums[kMaxRows][kMaxWidth];
    alignas(64) float scores[kMaxRows][kKeyBlock];
    float largest[kMaxRows], total[kMaxRows];
    const int64_t width = cache.value_row();
    const int64_t padded_rows = divide_up(block.rows, kRowsAtOnce) * kRowsAtOnce;
    int64_t first = block.position[0], last = 0;
    for (int64_t r = 0; r < padded_rows; ++r) {
        memset(sums[r], 0, static_cast<size_t>(width) * sizeof(float));
        largest[r] = -INFINITY;
        total[r] = 0.0f;
        if (r < block.rows) {
            first = block.position[r] < first ? block.position[r] : first;
            last = block.position[r] > last ? block.position[r] : last;
        }
    }
    const int64_t begin = window > 0 && first >= window ? first - window + 1 : 0;
    for (int64_t key = begin / kKeyBlock * kKeyBlock; key <= last; key += kKeyBlock) {
        const int64_t count = last + 1 - key < kKeyBlock ? last + 1 - key : kKeyBlock;
        const uint8_t* keys[kKeyBlock / kTileTokens16];
        const uint8_t* values[kKeyBlock / kTileTokens16];
        for (int64_t t = 0; t < kKeyBlock / kTileTokens16; ++t) {
            const int64_t token = key + (t * kTileTokens16 < count ? t * kTileTokens16 : 0);
            const int64_t tile = table.tile(token);
            keys[t] = cache.key_tile(tile, head);
            values[t] = cache.value_tile(tile, head);
        }
        for (int64_t r0 = 0; r0 < padded_rows; r0 += kRowsAtOnce) {
            const float* queries[kRowsAtOnce];
            float *row_scores[kRowsAtOnce], *row_sums[kRowsAtOnce];
            for (int64_t i = 0; i < kRowsAtOnce; ++i) {
                const int64_t r = r0 + i < block.rows ? r0 + i : block.rows - 1;
                queries[i] = block.query[r];
                row_scores[i] = scores[r0 + i];
                row_sums[i] = sums[r0 + i];
            }
            for (int64_t t = 0; t < kKeyBlock / kTileTokens16; t += kTilesAtOnce) {
                float* here[kRowsAtOnce];
                for (int i = 0; i < kRowsAtOnce; ++i) {
                    here[i] = row_scores[i] + t * kTileTokens16;
                }
                score_tiles<kTilesAtOnce>(queries, keys + t, cache.head_dim, here);
            }
            for (int64_t i = 0; i < kRowsAtOnce; ++i) {
                const int64_t r = r0 + i < block.rows ? r0 + i : block.rows - 1;
                const int64_t position = block.position[r];
                bool sees_any = false;
                for (int64_t k = 0; k < kKeyBlock; ++k) {
                    const int64_t token = key + k;
                    const bool is_seen =
                        token <= position && (window <= 0 || token > position - window);
                    sees_any |= is_seen;
                    row_scores[i][k] = is_seen ? row_scores[i][k] : -INFINITY;
                }
                if (sees_any) {
                    soften(row_scores[i], &largest[r0 + i], &total[r0 + i], row_sums[i], width);
                } else {
                    memset(row_scores[i], 0, kKeyBlock * sizeof(float));
                }
            }
            add_values(values, width, count, row_scores, row_sums);
        }
    }
    for (int64_t r = 0; r < block.rows; ++r) {
        const float scale = 1.0f / total[r];
        for (int64_t d = 0; d < cache.head_dim; ++d) {
            block.out[r][d] = sums[r][d / 32 * 32 + d % 2 * 16 + d % 32 / 2] * scale;
        }
    }
}

}  // namespace
