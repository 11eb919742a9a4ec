// Low-rank adapters beside the weights: y = W x + scale * B (A x) (LoRA, arXiv:2106.09685, 4.1).
//
// A step may hold tokens of several adapters and of none. Where a token's adapter changes a weight,
// two thin products go beside the wide one: `shrink` makes A x, [rank], before it, and `with_adapter`
// adds B times that to the 32 outputs of a panel while they are at hand. Tokens without an adapter
// take the way of a step without adapters and get its bits. Every sum has one order of additions, so
// a token's bits depend neither on the other tokens nor on the threads.
//
// Both products have their outputs in the lanes of registers and broadcast their inputs, so nothing
// is added across lanes. Layout of the parts, filled up with zeros:
//   a   [pieces of 16 ranks][cols][16], A transposed
//   b   [panels of 32 rows][rank, even][32], B transposed, times the scale
#pragma once

#include "lanes.h"
#include "model.h"
#include "products.h"

namespace {

// Place of a weight among those of a layer in MixtralAdapters.table.
enum AdaptedWeight : int64_t { kAdaptedQ = 0, kAdaptedO = 3, kAdaptedGate = 4, kAdaptedExperts = 5 };

constexpr int64_t kDown = 2;             // w2 among the three weights of an expert
constexpr int64_t kLowPerSlot = 3;       // products of which a slot has the A x at the same time
constexpr int64_t kPiece = 16;           // ranks that lie together
constexpr int64_t kShrinkSlots = 16;     // slots of a job
constexpr int64_t kShrinkColumns = 256;  // columns of a piece that stay in L1 for all these slots
constexpr int64_t kShrinkGrain = 65536;  // products below which another thread is not worth waking

// The adapters of one layer, for the tokens of one step.
struct LayerAdapters {
    const MixtralLowRank* table;  // this layer's weights in adapter 0
    int64_t stride;               // entries from one adapter to the next
    int64_t width;                // largest rank, rounded up to whole pieces
    int32_t* of_token;            // [tokens], adapter of a token; -1: none
    float* low;                   // [slots, kLowPerSlot, width]: A x
    float* parts;                 // [slots, groups of the hidden layer, width]

    // What the adapter of a token has for a weight of this layer, or null.
    const MixtralLowRank* find(int64_t token, int64_t weight) const {
        if (of_token[token] < 0) {
            return nullptr;
        }
        const MixtralLowRank* found = table + of_token[token] * stride + weight;
        return found->rank > 0 ? found : nullptr;
    }
    float* low_of(int64_t slot, int64_t which) const {
        return low + (slot * kLowPerSlot + which) * width;
    }
};

inline int64_t adapted_weights(const MixtralModel& m) { return kAdaptedExperts + 3 * m.experts; }

// Place of w1, w3 or w2 (`which` is 0, 1 or kDown) of an expert.
constexpr int64_t adapted_expert(int64_t expert, int64_t which) {
    return kAdaptedExperts + 3 * expert + which;
}

inline LayerAdapters lay_out_adapters(Arena& arena, const MixtralModel& m, int64_t tokens,
                                      int64_t max_rank) {
    LayerAdapters adapters = {};
    const int64_t slots = tokens * (m.experts_per_token > 0 ? m.experts_per_token : 1);
    adapters.width = divide_up(max_rank, kPiece) * kPiece;
    adapters.of_token = arena.array<int32_t>(tokens);
    adapters.low = arena.array<float>(slots * kLowPerSlot * adapters.width);
    adapters.parts = arena.array<float>(slots * divide_up(m.ffn, kGroup) * adapters.width);
    return adapters;
}

inline LayerAdapters first_layer(const MixtralModel& m, const MixtralBatch& b) {
    Arena arena = {b.adapters->workspace, 0};
    LayerAdapters adapters = lay_out_adapters(arena, m, b.tokens, b.adapters->max_rank);
    adapters.table = b.adapters->table;
    adapters.stride = m.layers * adapted_weights(m);
    for (int64_t s = 0; s < b.sequences; ++s) {
        for (int64_t t = b.starts[s]; t < b.starts[s + 1]; ++t) {
            adapters.of_token[t] = static_cast<int32_t>(b.adapters->of_sequence[s]);
        }
    }
    return adapters;
}

// Slots that share a weight: their states, and where their A x goes.
struct LowRankSlots {
    int count;
    const float* x[kShrinkSlots];
    float* out[kShrinkSlots];

    void add(const float* state, float* low) {
        x[count] = state;
        out[count++] = low;
    }
};

// Adds to 16 ranks of kT slots the products of `count` columns, even and odd ones by themselves.
template <int kT>
inline void shrink_tile(const float* a, int64_t count, const float* const* x, int64_t first,
                        float* const* out, int64_t rank) {
    constexpr int kRegistersOut = kPiece / kWidth;
    Floats acc[2][kT][kRegistersOut] = {};
    const auto add_column = [&](int64_t k, Floats(&sums)[kT][kRegistersOut]) {
#pragma GCC unroll 2
        for (int t = 0; t < kT; ++t) {
            const Floats state = all(x[t][first + k]);
#pragma GCC unroll 4
            for (int i = 0; i < kRegistersOut; ++i) {
                sums[t][i] = multiply_add(state, load_floats(a + k * kPiece + i * kWidth),
                                          sums[t][i]);
            }
        }
    };
    int64_t k = 0;
    for (; k + 2 <= count; k += 2) {
        add_column(k, acc[0]);
        add_column(k + 1, acc[1]);
    }
    if (k < count) {
        add_column(k, acc[0]);
    }
    for (int t = 0; t < kT; ++t) {
        for (int i = 0; i < kRegistersOut; ++i) {
            float* to = out[t] + rank + i * kWidth;
            store_floats(to, load_floats(to) + (acc[0][t][i] + acc[1][t][i]));
        }
    }
}

// Makes 16 ranks of A x for all slots; `a` begins at their piece and first column.
inline void shrink_piece(const float* a, int64_t cols, const LowRankSlots& slots, int64_t rank) {
    for (int i = 0; i < slots.count; ++i) {
        memset(slots.out[i] + rank, 0, kPiece * sizeof(float));
    }
    for (int64_t first = 0; first < cols; first += kShrinkColumns) {
        const int64_t count = cols - first < kShrinkColumns ? cols - first : kShrinkColumns;
        int i = 0;
        for (; i + 2 <= slots.count; i += 2) {
            shrink_tile<2>(a + first * kPiece, count, slots.x + i, first, slots.out + i, rank);
        }
        if (i < slots.count) {
            shrink_tile<1>(a + first * kPiece, count, slots.x + i, first, slots.out + i, rank);
        }
    }
}

// A x of `weights` weights for all slots: find(slot, which) is the weight's part or null, and
// state(slot) its x. The result is in low_of(slot, which).
template <typename Find, typename State>
inline void shrink(const LayerAdapters& adapters, int64_t slots, int64_t weights, int64_t cols,
                   const Find& find, const State& state) {
    const int64_t blocks = divide_up(slots, kShrinkSlots);
    const int64_t pieces = adapters.width / kPiece;
    const int64_t in_job = (slots < kShrinkSlots ? slots : kShrinkSlots) * kPiece * cols;
    const int64_t grain = divide_up(kShrinkGrain, in_job + 1);
    parallel_for(blocks * weights * pieces, grain, [&](int64_t first_job, int64_t last_job, int) {
        for (int64_t job = first_job; job < last_job; ++job) {
            const int64_t which = job / pieces % weights, rank = job % pieces * kPiece;
            const int64_t begin = job / pieces / weights * kShrinkSlots;
            const int64_t end = begin + kShrinkSlots < slots ? begin + kShrinkSlots : slots;
            for (int64_t slot = begin; slot < end;) {
                const MixtralLowRank* weight = find(slot, which);
                LowRankSlots alike = {};
                do {
                    alike.add(state(slot), adapters.low_of(slot, which));
                } while (++slot < end && find(slot, which) == weight);
                if (weight != nullptr && rank < weight->rank) {
                    shrink_piece(weight->a + rank * cols, cols, alike, rank);
                }
            }
        }
    });
}

// Adds b low to the outputs of one panel.
inline void add_panel(const MixtralLowRank& weight, int64_t panel, const float* low, float* sums) {
    constexpr int kRegistersOut = kPanel / kWidth;
    const int64_t ranks = divide_up(weight.rank, 2) * 2;
    const float* b = weight.b + panel * ranks * kPanel;
    Floats acc[2][kRegistersOut] = {};
    for (int64_t r = 0; r < ranks; r += 2) {
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd, b += kPanel) {
            const Floats factor = all(low[r + odd]);
#pragma GCC unroll 8
            for (int i = 0; i < kRegistersOut; ++i) {
                acc[odd][i] = multiply_add(factor, load_floats(b + i * kWidth), acc[odd][i]);
            }
        }
    }
    for (int i = 0; i < kRegistersOut; ++i) {
        float* to = sums + i * kWidth;
        store_floats(to, load_floats(to) + (acc[0][i] + acc[1][i]));
    }
}

// Which outputs: of a weight of the layer for a token, whose A x is in low_of(slot, which).
struct AdaptedPlace {
    int64_t token, weight, slot, which;
};

// Returns `sums`, 32 outputs of one token, or in `room` what its adapter makes of them.
inline const float* with_adapter(const LayerAdapters* adapters, const AdaptedPlace& at,
                                 int64_t panel, const float* sums, float* room) {
    const MixtralLowRank* found = adapters == nullptr ? nullptr : adapters->find(at.token, at.weight);
    if (found == nullptr) {
        return sums;
    }
    memcpy(room, sums, kPanel * sizeof(float));
    add_panel(*found, panel, adapters->low_of(at.slot, at.which), room);
    return room;
}

// Adds the adapter's part to the router's logits of one token.
inline void adapt_router(const LayerAdapters& adapters, int64_t token, const float* x, int64_t cols,
                         int64_t experts, float* logits) {
    const MixtralLowRank* found = adapters.find(token, kAdaptedGate);
    if (found == nullptr) {
        return;
    }
    float* low = adapters.low_of(token, 0);
    LowRankSlots alone = {};
    alone.add(x, low);
    for (int64_t rank = 0; rank < found->rank; rank += kPiece) {
        shrink_piece(found->a + rank * cols, cols, alone, rank);
    }
    for (int64_t panel = 0; panel * kPanel < experts; ++panel) {
        const int64_t left = experts - panel * kPanel;
        const size_t bytes = static_cast<size_t>(left < kPanel ? left : kPanel) * sizeof(float);
        float sums[kPanel] = {};
        memcpy(sums, logits + panel * kPanel, bytes);
        add_panel(*found, panel, low, sums);
        memcpy(logits + panel * kPanel, sums, bytes);
    }
}

}  // namespace
