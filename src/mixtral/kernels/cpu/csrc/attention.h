// Grouped-query attention over the block KV cache, for prefill and decode alike.
//
// The cache holds tiles of 16 tokens (a block is one or more tiles), in bfloat16, of which a dword
// holds 2 channels, or in int8, 4 channels. In a tile, keys are turned: a line of 64 bytes has one
// dword of each of the 16 tokens, so their scores build up in 16 lanes with no sum across lanes.
// Values lie token by token. int8 tiles begin with 16 float32 scales, one per token and head.
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

// Where a layer's keys and values lie; kChannels per dword, 2 (bfloat16) or 4 (int8).
struct CacheLayer {
    uint8_t* keys;
    uint8_t* values;
    int64_t kv_heads, head_dim, channels;

    int64_t header_bytes() const { return channels == 4 ? kLineBytes : 0; }
    int64_t key_lines() const { return divide_up(head_dim, channels); }
    int64_t key_tile_bytes() const { return header_bytes() + key_lines() * kLineBytes; }
    int64_t value_lines() const { return divide_up(head_dim, 16 * channels); }
    int64_t value_tile_bytes() const {
        return header_bytes() + value_lines() * kLineBytes * kTileTokens16;
    }
    // Floats of an output row, with the padding of its last line.
    int64_t width() const { return value_lines() * 16 * channels; }

    uint8_t* key_tile(int64_t tile, int64_t head) const {
        return keys + (tile * kv_heads + head) * key_tile_bytes();
    }
    uint8_t* value_tile(int64_t tile, int64_t head) const {
        return values + (tile * kv_heads + head) * value_tile_bytes();
    }

    void write(int64_t slot, int64_t head, const float* key, const float* value) const {
        const int64_t token = slot % kTileTokens16;
        uint8_t* k = key_tile(slot / kTileTokens16, head);
        uint8_t* v = value_tile(slot / kTileTokens16, head);
        const float key_step = put_scale(k, token, key), value_step = put_scale(v, token, value);
        k += header_bytes() + 4 * token;
        for (int64_t d = 0; d < key_lines() * channels; d += channels) {
            const uint32_t dword = join(key, d, key_step);
            memcpy(k + d / channels * kLineBytes, &dword, sizeof(dword));
        }
        v += header_bytes() + token * value_lines() * kLineBytes;
        for (int64_t d = 0; d < width(); d += channels) {
            const uint32_t dword = join(value, d, value_step);
            memcpy(v + d / channels * 4, &dword, sizeof(dword));
        }
    }

  private:
    // Writes the scale of one token of an int8 tile; returns its inverse.
    float put_scale(uint8_t* tile, int64_t token, const float* values) const {
        if (channels != 4) {
            return 1.0f;
        }
        const float largest = largest_size(values, head_dim);
        const float scale = largest / 127.0f;
        memcpy(tile + 4 * token, &scale, sizeof(scale));
        return int8_steps(largest);
    }

    // Channels d to d + channels - 1 in one dword; those past head_dim are 0.
    uint32_t join(const float* values, int64_t d, float step) const {
        uint32_t dword = 0;
        for (int64_t j = 0; j < channels && d + j < head_dim; ++j) {
            if (channels == 2) {
                dword |= static_cast<uint32_t>(to_bf16_bits(values[d + j])) << (16 * j);
                continue;
            }
            const int32_t code = static_cast<int32_t>((values[d + j] * step + 12582912.0f) -
                                                      12582912.0f);
            dword |= (static_cast<uint32_t>(code) & 0xffu) << (8 * j);
        }
        return dword;
    }
};

// Channel j of every dword.
template <int kChannels>
inline Floats channel(Ints dwords, int j) {
    if (kChannels == 2) {
        return j == 0 ? first_of_pair(dwords) : second_of_pair(dwords);
    }
    return __builtin_convertvector((dwords << (24 - 8 * j)) >> 24, Floats);
}

// Blocks of one sequence; token i lies in slot(i).
struct BlockTable {
    const int64_t* blocks;
    int64_t block_size;

    int64_t slot(int64_t token) const {
        return blocks[token / block_size] * block_size + token % block_size;
    }
    int64_t tile(int64_t token) const { return slot(token) / kTileTokens16; }
};

// scores[row][16 per tile]: queries [kRowsAtOnce][head_dim] against kTiles tiles of keys.
template <int kChannels, int kTiles>
inline void score_tiles(const float* const* queries, const uint8_t* const* keys, int64_t head_dim,
                        float* const* scores) {
    constexpr int64_t kHeader = kChannels == 4 ? kLineBytes : 0;
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
        for (int64_t d = 0; d < head_dim; d += kChannels) {
            Ints dwords[kTiles];
#pragma GCC unroll 4
            for (int t = 0; t < kTiles; ++t) {
                dwords[t] = load_ints(keys[t] + kHeader + d / kChannels * kLineBytes +
                                      part * kWidth * 4);
            }
#pragma GCC unroll 4
            for (int j = 0; j < kChannels; ++j) {
                Floats key[kTiles];
#pragma GCC unroll 4
                for (int t = 0; t < kTiles; ++t) {
                    key[t] = channel<kChannels>(dwords[t], j);
                }
#pragma GCC unroll 4
                for (int r = 0; r < kRowsAtOnce; ++r) {
                    const Floats q = all(queries[r][d + j]);
#pragma GCC unroll 4
                    for (int t = 0; t < kTiles; ++t) {
                        sums[r][t] = multiply_add(key[t], q, sums[r][t]);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 4
            for (int t = 0; t < kTiles; ++t) {
                if (kChannels == 4) {
                    sums[r][t] *= as_floats(load_ints(keys[t] + part * kWidth * 4));
                }
                store_floats(scores[r] + t * kTileTokens16 + part * kWidth, sums[r][t]);
            }
        }
    }
}

// out[row] += sum over keys of weight[row][key] * value[key]. A line of values has 16 * kChannels
// channels; in `out`, channel c * kChannels + j of a line is at 16 * j + c.
template <int kChannels>
inline void add_values(const uint8_t* const* tiles, int64_t lines, int64_t count,
                       const float* const* weights, float* const* out) {
    constexpr int64_t kHeader = kChannels == 4 ? kLineBytes : 0;
    for (int64_t line = 0; line < lines; ++line) {
        for (int part = 0; part < kRegisters; ++part) {
            const int64_t place = line * 16 * kChannels + part * kWidth;
            Floats sums[kRowsAtOnce][kChannels];
#pragma GCC unroll 4
            for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 4
                for (int j = 0; j < kChannels; ++j) {
                    sums[r][j] = load_floats(out[r] + place + 16 * j);
                }
            }
#pragma GCC unroll 1
            for (int64_t key = 0; key < count; ++key) {
                const uint8_t* row = tiles[key / kTileTokens16] + kHeader +
                                     (key % kTileTokens16 * lines + line) * kLineBytes;
                const Ints dwords = load_ints(row + part * kWidth * 4);
#pragma GCC unroll 4
                for (int j = 0; j < kChannels; ++j) {
                    const Floats value = channel<kChannels>(dwords, j);
#pragma GCC unroll 4
                    for (int r = 0; r < kRowsAtOnce; ++r) {
                        sums[r][j] = multiply_add(value, all(weights[r][key]), sums[r][j]);
                    }
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 4
                for (int j = 0; j < kChannels; ++j) {
                    store_floats(out[r] + place + 16 * j, sums[r][j]);
                }
            }
        }
    }
}

// Multiplies the weights of 64 keys by the scales of their int8 values.
inline void scale_weights(const uint8_t* const* tiles, float* weights) {
    for (int64_t k = 0; k < kKeyBlock; k += kWidth) {
        const uint8_t* scales = tiles[k / kTileTokens16] + k % kTileTokens16 * 4;
        store_floats(weights + k, load_floats(weights + k) * as_floats(load_ints(scales)));
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

template <int kChannels>
void attend(const QueryBlock& block, const CacheLayer& cache, int64_t head,
                   const BlockTable& table, int64_t window) {
    constexpr int64_t kMaxWidth = 512;  // head_dim with padding, checked by the caller
    alignas(64) float sums[kMaxRows][kMaxWidth];
    alignas(64) float scores[kMaxRows][kKeyBlock];
    float largest[kMaxRows], total[kMaxRows];
    const int64_t width = cache.width();
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
                score_tiles<kChannels, kTilesAtOnce>(queries, keys + t, cache.head_dim, here);
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
                    if (kChannels == 4) {
                        scale_weights(values, row_scores[i]);
                    }
                } else {
                    memset(row_scores[i], 0, kKeyBlock * sizeof(float));
                }
            }
            add_values<kChannels>(values, cache.value_lines(), count, row_scores, row_sums);
        }
    }
    for (int64_t r = 0; r < block.rows; ++r) {
        const float scale = 1.0f / total[r];
        for (int64_t d = 0; d < cache.head_dim; ++d) {
            constexpr int64_t kLine = 16 * kChannels;
            const int64_t place = d / kLine * kLine + d % kChannels * 16 + d % kLine / kChannels;
            block.out[r][d] = sums[r][place] * scale;
        }
    }
}

}  // namespace
