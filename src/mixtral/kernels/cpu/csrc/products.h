// out = x w^T for a list of token states ("slots") and a weight in any format.
//
// The states are prepared once for each product: as int8 tiles for packed weights, as bfloat16 rows
// for bfloat16 weights. Then each panel of 32 weight rows is one job: it streams through memory once
// and meets the slots chunk by chunk. A slot's sums have one order whatever the other slots are.
#pragma once

#include "activations.h"
#include "linear_bf16.h"
#include "model.h"
#include "pool.h"
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#include "tile_vnni.h"
#else
#include "tile_plain.h"
#endif

namespace {

// Cuts the workspace into arrays; without memory it only counts.
struct Arena {
    uint8_t* memory;
    int64_t used;

    uint8_t* bytes(int64_t count) {
        uint8_t* here = memory == nullptr ? nullptr : memory + used;
        used += divide_up(count, 64) * 64;
        return here;
    }
    template <typename T>
    T* array(int64_t count) {
        return reinterpret_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T))));
    }
};

constexpr int64_t kChunk = 192;              // slots that a panel meets at a time
constexpr int64_t kChunkRows = 2 * kChunk;   // with second rows
constexpr int64_t kSmallTile = 6;            // rows whose sums all stay in registers

inline bool is_packed(const MixtralWeight& w) { return w.format != kBf16; }

// Prepared states of `slots` slots.
struct Input {
    int64_t slots, cols;
    uint8_t* rows;          // first and second row of every slot
    uint8_t* tiles;         // tiles of a chunk follow each other; a chunk begins at its first row
    int32_t* first_row;     // [slots + 1], row of a slot among the rows in tiles
    uint16_t* bf16;         // [slots, cols]
    int64_t format;         // of the packed weights that the tiles are for
    bool has_int8, has_bf16;

    uint8_t* row(int64_t slot, int which) const {
        return rows + (2 * slot + which) * row_bytes(cols);
    }
    int64_t chunks() const { return divide_up(slots, kChunk); }
    int64_t chunk_start(int64_t chunk) const { return slots * chunk / chunks(); }

    // The tiles of `count` rows. int8 lines take as long to load as decoding others, so small tiles
    // pay there as soon as one tile is not enough.
    Tiling tiling(int64_t count) const {
        const bool is_one_tile = count <= kMaxTile;
        const bool is_small = format == kInt8 ? !is_one_tile : count >= kRowsToDecode;
        return Tiling(count, is_small ? kSmallTile : kMaxTile);
    }
};

inline int64_t input_bytes(int64_t slots, int64_t cols) {
    return slots * (4 * row_bytes(cols) + 2 * cols) + (slots + 1) * 4 + 256;
}

inline Input lay_out_input(uint8_t* memory, int64_t slots, int64_t cols) {
    Input input = {};
    input.slots = slots;
    input.cols = cols;
    input.rows = memory;
    input.tiles = input.rows + 2 * slots * row_bytes(cols);
    input.bf16 = reinterpret_cast<uint16_t*>(input.tiles + 2 * slots * row_bytes(cols));
    input.first_row = reinterpret_cast<int32_t*>(input.bf16 + divide_up(slots * cols, 2) * 2);
    return input;
}

// Packs the tiles of chunks, given the rows and first_row of all slots.
inline void pack_chunks(const Input& input, int64_t first, int64_t last) {
    const int64_t groups = divide_up(input.cols, kGroup);
    for (int64_t chunk = first; chunk < last; ++chunk) {
        const int64_t begin = input.chunk_start(chunk), end = input.chunk_start(chunk + 1);
        const uint8_t* rows[kChunkRows];
        int64_t count = 0;
        for (int64_t slot = begin; slot < end; ++slot) {
            for (int i = 0; i < input.first_row[slot + 1] - input.first_row[slot]; ++i) {
                rows[count++] = input.row(slot, i);
            }
        }
        uint8_t* tiles = input.tiles + input.first_row[begin] * row_bytes(input.cols);
        const Tiling tiling = input.tiling(count);
        for (int64_t i = 0; i < tiling.count; ++i) {
            const int64_t a = tiling.start(i), b = tiling.start(i + 1);
            pack_tile(rows + a, static_cast<int>(b - a), groups, tiles + a * row_bytes(input.cols));
        }
    }
}

// first_row[slot + 1] holds 1 or 2, the rows of the slot; becomes the row after it.
inline void number_rows(Input& input) {
    input.first_row[0] = 0;
    for (int64_t slot = 0; slot < input.slots; ++slot) {
        input.first_row[slot + 1] += input.first_row[slot];
    }
}

// Prepares states as `weight` needs them; state(slot) returns its [cols] floats.
template <typename State>
void prepare(Input& input, const MixtralWeight& weight, bool exact, const State& state) {
    if (!is_packed(weight)) {
        if (!input.has_bf16) {
            parallel_for(input.slots, 8, [&](int64_t first, int64_t last, int) {
                for (int64_t slot = first; slot < last; ++slot) {
                    const float* x = state(slot);
                    for (int64_t k = 0; k < input.cols; ++k) {
                        input.bf16[slot * input.cols + k] = to_bf16_bits(x[k]);
                    }
                }
            });
        }
        input.has_bf16 = true;
        return;
    }
    if (input.has_int8 && input.format == weight.format) {
        return;
    }
    input.format = weight.format;
    parallel_for(input.slots, 8, [&](int64_t first, int64_t last, int) {
        for (int64_t slot = first; slot < last; ++slot) {
            const bool has_second = quantize_row(state(slot), input.cols, input.row(slot, 0),
                                                 input.row(slot, 1), exact);
            input.first_row[slot + 1] = has_second ? 2 : 1;
        }
    });
    number_rows(input);
    parallel_for(input.chunks(), 1,
                 [&](int64_t first, int64_t last, int) { pack_chunks(input, first, last); });
    input.has_int8 = true;
}

// sums[slot - begin][32] for the slots of one chunk and panel `panel` of a packed weight. `scratch`
// has room for the panel in int8.
inline void packed_chunk(const Input& input, const MixtralWeight& w, int64_t panel, int64_t chunk,
                         uint8_t* scratch, float* sums) {
    const TileKernel* kernels =
        w.format == kInt8 ? kTiles8 : w.format == kInt4 ? kTiles4 : kTiles3;
    const int64_t groups = divide_up(w.cols, kGroup);
    const int64_t bytes = panel_bytes(static_cast<int>(w.format), w.cols);
    const uint8_t* data = w.data + panel * bytes;
    const int64_t begin = input.chunk_start(chunk), end = input.chunk_start(chunk + 1);
    const int64_t row0 = input.first_row[begin];
    const int64_t count = input.first_row[end] - row0;
    const Tiling tiling = input.tiling(count);
    const bool is_alone = tiling.count == 1 && input.chunks() == 1;
    // Many tiles: the next panel is brought near, one slice per tile of the first chunk.
    const bool fetches_next = !is_alone && chunk == 0 && (panel + 1) * kPanel < w.rows;
    const uint8_t* next = data + bytes;
    if (w.format != kInt8 && count >= kRowsToDecode) {
        decode_panel(w.format, data, groups, scratch);
        data = scratch;
        kernels = kTilesDecoded;
    }
    const uint8_t* acts = input.tiles + row0 * row_bytes(w.cols);
    for (int64_t i = 0; i < tiling.count; ++i) {
        const int64_t a = tiling.start(i), b = tiling.start(i + 1);
        if (fetches_next) {
            const int64_t stop = bytes * (i + 1) / tiling.count;
            for (int64_t at = bytes * i / tiling.count / 64 * 64; at < stop; at += 64) {
                __builtin_prefetch(next + at, 0, 2);
            }
        }
        kernels[b - a - 1](data, acts + a * row_bytes(w.cols), groups, sums + a * kPanel,
                           is_alone ? kAhead : 0);
    }
    if (count == end - begin) {
        return;
    }
    // Fold second rows into first ones; a row never moves to a later place.
    for (int64_t slot = begin; slot < end; ++slot) {
        const int64_t row = input.first_row[slot] - row0;
        const bool has_second = input.first_row[slot + 1] - input.first_row[slot] == 2;
        for (int64_t r = 0; r < kPanel; ++r) {
            const float first = sums[row * kPanel + r];
            sums[(slot - begin) * kPanel + r] =
                has_second ? first + sums[(row + 1) * kPanel + r] : first;
        }
    }
}

// As packed_chunk, for either kind of weight.
inline void chunk_sums(const Input& input, const MixtralWeight& w, int64_t panel, int64_t chunk,
                       uint8_t* scratch, float* sums) {
    if (is_packed(w)) {
        packed_chunk(input, w, panel, chunk, scratch, sums);
        return;
    }
    const int64_t begin = input.chunk_start(chunk);
    bf16_panel(input.bf16 + begin * w.cols, reinterpret_cast<const uint16_t*>(w.data),
               input.chunk_start(chunk + 1) - begin, input.slots, w.rows, w.cols, panel * kPanel,
               sums);
}

// Scratch of one thread for weights of so many columns.
inline int64_t scratch_bytes(int64_t cols) { return panel_bytes(kInt8, cols); }

// Scratch of all threads.
struct Scratch {
    uint8_t* memory;
    int64_t bytes;  // of one thread

    uint8_t* of(int thread) const { return memory + thread * bytes; }
};

// Calls take(slot, panel, sums of 32 rows) for every slot and for panels first to last - 1.
template <typename Take>
void run_panels(const Input& input, const MixtralWeight& w, int64_t first, int64_t last,
                uint8_t* scratch, const Take& take) {
    alignas(64) float sums[kChunkRows * kPanel];
    for (int64_t panel = first; panel < last; ++panel) {
        for (int64_t chunk = 0; chunk < input.chunks(); ++chunk) {
            chunk_sums(input, w, panel, chunk, scratch, sums);
            const int64_t begin = input.chunk_start(chunk), end = input.chunk_start(chunk + 1);
            for (int64_t slot = begin; slot < end; ++slot) {
                take(slot, panel, sums + (slot - begin) * kPanel);
            }
        }
    }
}

inline int64_t num_panels(const MixtralWeight& w) { return divide_up(w.rows, kPanel); }

inline int64_t panel_rows(const MixtralWeight& w, int64_t panel) {
    return w.rows - panel * kPanel < kPanel ? w.rows - panel * kPanel : kPanel;
}

// Runs of neighbouring panels: a thread takes the panel that it has brought near. Short enough for
// the threads to end together.
inline int64_t panel_grain(int64_t panels) {
    const int64_t grain = panels / (16 * pool_threads());
    return grain < 1 ? 1 : grain;
}

// The product of all slots with a weight: take(slot, first row, number of rows, sums).
template <typename Take>
void product(const Input& input, const MixtralWeight& w, const Scratch& scratch, const Take& take) {
    const int64_t panels = num_panels(w);
    parallel_for(panels, panel_grain(panels), [&](int64_t first, int64_t last, int thread) {
        run_panels(input, w, first, last, scratch.of(thread),
                   [&](int64_t slot, int64_t panel, const float* sums) {
                       take(slot, panel * kPanel, panel_rows(w, panel), sums);
                   });
    });
}

// One product by itself: x [tokens, w.cols], out [tokens, w.rows]. Returns as abi.h says.
int64_t linear(const float* x, int64_t tokens, const MixtralWeight& w, bool exact, float* out,
               uint8_t* workspace, int64_t workspace_bytes) {
    Arena arena = {workspace, 0};
    Input input = lay_out_input(arena.bytes(input_bytes(tokens, w.cols)), tokens, w.cols);
    const int64_t per_thread = scratch_bytes(w.cols);
    const Scratch scratch = {arena.bytes(pool_threads() * per_thread), per_thread};
    if (arena.used > workspace_bytes) {
        return arena.used;
    }
    prepare(input, w, exact, [&](int64_t t) { return x + t * w.cols; });
    product(input, w, scratch, [&](int64_t t, int64_t first, int64_t count, const float* sums) {
        memcpy(out + t * w.rows + first, sums, static_cast<size_t>(count) * sizeof(float));
    });
    return 0;
}

}  // namespace
