// The sparse feed-forward step: route, group by expert, SwiGLU, weighted sum (arXiv:2401.04088, 2.1).
//
// A slot is one (token, expert) pair; slots are ordered by expert, then by token. Two regions:
//   up    a job owns 128 neighbouring columns of one expert's hidden layer: gate and up products of
//         all its slots, silu(gate) * up, and the int8 codes of just these columns, which are one
//         quantisation group of the down product's input. No second pass over the hidden layer.
//   down  a job owns 32 neighbouring outputs over ALL experts, in the order of experts: no two
//         threads add to the same number, and a token's sum has one order.
#pragma once

#include "adapters.h"
#include "lanes.h"
#include "products.h"

namespace {

struct Moe {
    int64_t tokens, experts, per_token;
    uint8_t *input_memory, *hidden_memory;
    int32_t* expert_of;     // [tokens, per_token]
    float* weight_of;       // [tokens, per_token]
    int32_t* token_of;      // [slots], slots ordered by expert
    float* slot_weight;     // [slots]
    int32_t* expert_of_slot;  // [slots], only with adapters
    int64_t* first_slot;    // [experts + 1]
    Input* inputs;          // [experts], states that come in
    Input* hidden;          // [experts], states between the products
    float* errors;          // [slots, groups of the hidden layer], expected squared error
    float* energies;        // the same shape, sums of squares
    float* partial;         // [threads, tokens, 32], outputs of one panel
    Scratch scratch;
    const LayerAdapters* adapters;  // null: no token has one
};

// Room for `tokens` tokens of `hidden` channels and experts of `ffn` columns.
inline Moe lay_out_moe(Arena& arena, int64_t tokens, int64_t experts, int64_t per_token,
                       int64_t hidden, int64_t ffn) {
    Moe moe = {};
    const int64_t slots = tokens * per_token, groups = divide_up(ffn, kGroup);
    moe.tokens = tokens;
    moe.experts = experts;
    moe.per_token = per_token;
    // Inputs of experts lie one after the other: their slots add up, their ends are rounded.
    moe.input_memory = arena.bytes(input_bytes(slots, hidden) + experts * 512);
    moe.hidden_memory = arena.bytes(input_bytes(slots, ffn) + experts * 512);
    moe.expert_of = arena.array<int32_t>(slots);
    moe.weight_of = arena.array<float>(slots);
    moe.token_of = arena.array<int32_t>(slots);
    moe.slot_weight = arena.array<float>(slots);
    moe.expert_of_slot = arena.array<int32_t>(slots);
    moe.first_slot = arena.array<int64_t>(experts + 1);
    moe.inputs = arena.array<Input>(experts);
    moe.hidden = arena.array<Input>(experts);
    moe.errors = arena.array<float>(slots * groups);
    moe.energies = arena.array<float>(slots * groups);
    moe.partial = arena.array<float>(pool_threads() * tokens * kPanel);
    moe.scratch.bytes = scratch_bytes(ffn > hidden ? ffn : hidden);
    moe.scratch.memory = arena.bytes(pool_threads() * moe.scratch.bytes);
    return moe;
}

// Chooses the experts of one token: the largest logits, the lower id on a tie, weighed by a softmax
// over the chosen ones.
inline void route_token(const float* logits, int64_t experts, int64_t per_token, int32_t* ids,
                        float* weights) {
    for (int64_t a = 0; a < per_token; ++a) {
        int32_t best = -1;
        for (int32_t e = 0; e < experts; ++e) {
            bool is_taken = false;
            for (int64_t b = 0; b < a; ++b) {
                is_taken |= ids[b] == e;
            }
            // A NaN is chosen, or nobody would hear of it.
            const bool is_nan = logits[e] != logits[e];
            const bool is_better = best < 0 || logits[e] > logits[best] || is_nan;
            if (!is_taken && is_better) {
                best = e;
            }
        }
        ids[a] = best;
    }
    float total = 0.0f;
    for (int64_t a = 0; a < per_token; ++a) {
        weights[a] = expf(logits[ids[a]] - logits[ids[0]]);
        total += weights[a];
    }
    for (int64_t a = 0; a < per_token; ++a) {
        weights[a] /= total;
    }
}

// Orders the slots by expert; a counting sort keeps the tokens of an expert in order.
inline void group_by_expert(Moe& moe) {
    for (int64_t e = 0; e <= moe.experts; ++e) {
        moe.first_slot[e] = 0;
    }
    const int64_t slots = moe.tokens * moe.per_token;
    for (int64_t i = 0; i < slots; ++i) {
        ++moe.first_slot[moe.expert_of[i] + 1];
    }
    for (int64_t e = 0; e < moe.experts; ++e) {
        moe.first_slot[e + 1] += moe.first_slot[e];
    }
    for (int64_t i = 0; i < slots; ++i) {
        const int64_t slot = moe.first_slot[moe.expert_of[i]]++;
        moe.token_of[slot] = static_cast<int32_t>(i / moe.per_token);
        moe.slot_weight[slot] = moe.weight_of[i];
    }
    for (int64_t e = moe.experts; e > 0; --e) {
        moe.first_slot[e] = moe.first_slot[e - 1];
    }
    moe.first_slot[0] = 0;
}

inline void swiglu(const float* gate, const float* up, float* out, int64_t count) {
    for (int64_t i = 0; i < count; i += kWidth) {
        const Floats g = load_floats(gate + i);
        // Below -87 e^-g is cut to e^87, and g / e^87 is nothing.
        const Floats negative = -g;
        const Floats e = exponential(negative < 87.0f ? negative : all(87.0f));
        store_floats(out + i, g / (e + 1.0f) * load_floats(up + i));
    }
}

// Writes the hidden states of one slot and group as the down product wants them.
inline void store_hidden(const Moe& moe, const Input& hidden, bool is_int8, bool exact, int64_t slot,
                         int64_t local, int64_t group, const float* values) {
    if (!is_int8) {
        const int64_t begin = group * kGroup;
        const int64_t count = hidden.cols - begin < kGroup ? hidden.cols - begin : kGroup;
        for (int64_t i = 0; i < count; ++i) {
            hidden.bf16[local * hidden.cols + begin + i] = to_bf16_bits(values[i]);
        }
        return;
    }
    const int64_t groups = divide_up(hidden.cols, kGroup);
    float energy = 0.0f;
    for (int i = 0; i < kGroup; ++i) {
        energy += values[i] * values[i];
    }
    uint8_t* row = hidden.row(local, 0) + group * kRowGroupBytes;
    uint8_t* second = hidden.row(local, 1) + group * kRowGroupBytes;
    float rest[kGroup];
    const float error = quantize_group(values, row, rest);
    // A second row is needed only where some group alone is above the bound.
    if (exact || needs_second_row(error, energy)) {
        quantize_group(rest, second, nullptr);
    } else {
        memset(second, 0, kRowGroupBytes);
    }
    moe.errors[slot * groups + group] = error;
    moe.energies[slot * groups + group] = energy;
}

// The part of A x for the down product that comes from one group of columns; `values` are the
// hidden states [slots, 128] of the expert's slots from `begin` on.
inline void shrink_hidden(const Moe& moe, int64_t expert, int64_t group, int64_t begin,
                          int64_t count, const float* values) {
    const LayerAdapters& adapters = *moe.adapters;
    const int64_t ffn = moe.hidden[expert].cols, groups = divide_up(ffn, kGroup);
    const int64_t first = group * kGroup;
    const int64_t cols = ffn - first < kGroup ? ffn - first : kGroup;
    const auto find = [&](int64_t s) {
        return adapters.find(moe.token_of[begin + s], adapted_expert(expert, kDown));
    };
    for (int64_t s = 0; s < count;) {
        const MixtralLowRank* weight = find(s);
        LowRankSlots alike = {};
        do {
            alike.add(values + s * kGroup,
                      adapters.parts + ((begin + s) * groups + group) * adapters.width);
        } while (++s < count && alike.count < kShrinkSlots && find(s) == weight);
        for (int64_t rank = 0; weight != nullptr && rank < weight->rank; rank += kPiece) {
            shrink_piece(weight->a + (rank * ffn + first * kPiece), cols, alike, rank);
        }
    }
}

// Adds up the parts of shrink_hidden, always in the order of groups.
inline void add_parts(const Moe& moe, int64_t ffn) {
    const LayerAdapters& adapters = *moe.adapters;
    const int64_t groups = divide_up(ffn, kGroup), width = adapters.width;
    for (int64_t e = 0; e < moe.experts; ++e) {
        parallel_for(moe.hidden[e].slots, 32, [&](int64_t first, int64_t last, int) {
            for (int64_t i = first; i < last; ++i) {
                const int64_t slot = moe.first_slot[e] + i;
                const MixtralLowRank* found =
                    adapters.find(moe.token_of[slot], adapted_expert(e, kDown));
                // Whole pieces: what lay behind the last rank must not meet the zeros of b.
                const int64_t ranks =
                    found == nullptr ? 0 : divide_up(found->rank, kPiece) * kPiece;
                float* low = adapters.low_of(slot, kDown);
                for (int64_t r = 0; r < ranks; ++r) {
                    low[r] = 0.0f;
                    for (int64_t g = 0; g < groups; ++g) {
                        low[r] += adapters.parts[(slot * groups + g) * width + r];
                    }
                }
            }
        });
    }
}

// A x for the up products of all slots.
inline void shrink_inputs(const Moe& moe, const float* normed, int64_t width) {
    const LayerAdapters& adapters = *moe.adapters;
    for (int64_t e = 0; e < moe.experts; ++e) {
        for (int64_t slot = moe.first_slot[e]; slot < moe.first_slot[e + 1]; ++slot) {
            moe.expert_of_slot[slot] = static_cast<int32_t>(e);
        }
    }
    shrink(adapters, moe.tokens * moe.per_token, 2, width,
           [&](int64_t slot, int64_t which) {
               return adapters.find(moe.token_of[slot],
                                    adapted_expert(moe.expert_of_slot[slot], which));
           },
           [&](int64_t slot) { return normed + moe.token_of[slot] * width; });
}

// One job of the up region.
inline void up_columns(const Moe& moe, const MixtralWeight* experts, bool exact, int64_t expert,
                       int64_t group, uint8_t* scratch) {
    const MixtralWeight& w1 = experts[3 * expert];
    const MixtralWeight& w3 = experts[3 * expert + 1];
    const Input& input = moe.inputs[expert];
    const bool is_int8 = is_packed(experts[3 * expert + 2]);
    const int64_t first_panel = group * (kGroup / kPanel);
    const int64_t end = first_panel + kGroup / kPanel;
    const int64_t last_panel = end < num_panels(w1) ? end : num_panels(w1);
    alignas(64) float gate[kChunk * kGroup];
    alignas(64) float up[kChunk * kGroup];
    alignas(64) float sums[kChunkRows * kPanel];
    for (int64_t chunk = 0; chunk < input.chunks(); ++chunk) {
        const int64_t begin = input.chunk_start(chunk);
        const int64_t count = input.chunk_start(chunk + 1) - begin;
        if (last_panel < end) {
            memset(gate, 0, sizeof(gate));
            memset(up, 0, sizeof(up));
        }
        for (int64_t panel = first_panel; panel < last_panel; ++panel) {
            for (int which = 0; which < 2; ++which) {
                const MixtralWeight& w = which == 0 ? w1 : w3;
                chunk_sums(input, w, panel, chunk, scratch, sums);
                float* to = (which == 0 ? gate : up) + (panel - first_panel) * kPanel;
                for (int64_t s = 0; s < count; ++s) {
                    const int64_t slot = moe.first_slot[expert] + begin + s;
                    const AdaptedPlace at = {moe.token_of[slot], adapted_expert(expert, which), slot,
                                             which};
                    alignas(64) float room[kPanel];
                    memcpy(to + s * kGroup,
                           with_adapter(moe.adapters, at, panel, sums + s * kPanel, room),
                           kPanel * sizeof(float));
                }
            }
        }
        const int64_t valid = w1.rows - group * kGroup;  // columns past these are padding
        for (int64_t s = 0; s < count; ++s) {
            float* values = gate + s * kGroup;
            swiglu(values, up + s * kGroup, values, kGroup);
            for (int64_t i = valid; i < kGroup; ++i) {
                values[i] = 0.0f;
            }
            store_hidden(moe, moe.hidden[expert], is_int8, exact,
                         moe.first_slot[expert] + begin + s, begin + s, group, values);
        }
        if (moe.adapters != nullptr) {
            shrink_hidden(moe, expert, group, moe.first_slot[expert] + begin, count, gate);
        }
    }
}

// Decides which hidden states need a second row, and packs the tiles of every chunk.
inline void pack_hidden(const Moe& moe, const MixtralWeight* experts, bool exact, int64_t expert) {
    Input& hidden = moe.hidden[expert];
    hidden.first_row[0] = 0;
    if (!is_packed(experts[3 * expert + 2])) {
        return;
    }
    hidden.format = experts[3 * expert + 2].format;
    const int64_t groups = divide_up(hidden.cols, kGroup);
    for (int64_t local = 0; local < hidden.slots; ++local) {
        const int64_t slot = moe.first_slot[expert] + local;
        float error = 0.0f, energy = 0.0f;
        for (int64_t g = 0; g < groups; ++g) {
            error += moe.errors[slot * groups + g];
            energy += moe.energies[slot * groups + g];
        }
        hidden.first_row[local + 1] = exact || needs_second_row(error, energy) ? 2 : 1;
    }
    number_rows(hidden);
}

// x[token] += sum over the token's experts of weight * (w2 hidden), all slots, one panel per job.
inline void down(const Moe& moe, const MixtralWeight* experts, int64_t width, float* x) {
    const int64_t panels = divide_up(width, kPanel);
    parallel_for(panels, panel_grain(panels), [&](int64_t first, int64_t last, int thread) {
        float* partial = moe.partial + thread * moe.tokens * kPanel;
        for (int64_t panel = first; panel < last; ++panel) {
            memset(partial, 0, static_cast<size_t>(moe.tokens * kPanel) * sizeof(float));
            for (int64_t e = 0; e < moe.experts; ++e) {
                if (moe.hidden[e].slots == 0) {
                    continue;
                }
                const int64_t begin = moe.first_slot[e];
                run_panels(moe.hidden[e], experts[3 * e + 2], panel, panel + 1,
                           moe.scratch.of(thread), [&](int64_t local, int64_t, const float* sums) {
                               const int64_t slot = begin + local;
                               const AdaptedPlace at = {moe.token_of[slot],
                                                        adapted_expert(e, kDown), slot, kDown};
                               alignas(64) float room[kPanel];
                               sums = with_adapter(moe.adapters, at, panel, sums, room);
                               float* to = partial + at.token * kPanel;
                               const float weight = moe.slot_weight[slot];
                               for (int64_t r = 0; r < kPanel; ++r) {
                                   to[r] += weight * sums[r];
                               }
                           });
            }
            const int64_t rows = width - panel * kPanel < kPanel ? width - panel * kPanel : kPanel;
            for (int64_t t = 0; t < moe.tokens; ++t) {
                for (int64_t r = 0; r < rows; ++r) {
                    x[t * width + panel * kPanel + r] += partial[t * kPanel + r];
                }
            }
        }
    });
}

// The states of tokens are `normed` [tokens, width], their experts and weights are in expert_of and
// weight_of; adds the result to x.
inline void run_experts(Moe& moe, const MixtralWeight* experts, bool exact, const float* normed,
                        int64_t width, float* x) {
    const int64_t ffn = experts[0].rows;
    const int64_t groups = divide_up(ffn, kGroup);
    group_by_expert(moe);
    uint8_t *inputs = moe.input_memory, *hidden = moe.hidden_memory;
    for (int64_t e = 0; e < moe.experts; ++e) {
        const int64_t count = moe.first_slot[e + 1] - moe.first_slot[e];
        moe.inputs[e] = lay_out_input(inputs, count, width);
        moe.hidden[e] = lay_out_input(hidden, count, ffn);
        inputs += divide_up(input_bytes(count, width), 64) * 64;
        hidden += divide_up(input_bytes(count, ffn), 64) * 64;
    }
    for (int64_t e = 0; e < moe.experts; ++e) {
        if (moe.inputs[e].slots > 0) {
            const int64_t begin = moe.first_slot[e];
            prepare(moe.inputs[e], experts[3 * e], exact, [&](int64_t local) {
                return normed + moe.token_of[begin + local] * width;
            });
        }
    }
    if (moe.adapters != nullptr) {
        shrink_inputs(moe, normed, width);
    }
    // Few tokens: the time is that of reading, which is faster in longer runs.
    const int64_t jobs = moe.experts * groups;
    const int64_t grain = moe.tokens <= 4 && groups >= 32 * pool_threads() ? 4 : 1;
    parallel_for(jobs, grain, [&](int64_t first, int64_t last, int thread) {
        for (int64_t job = first; job < last; ++job) {
            if (moe.inputs[job / groups].slots > 0) {
                up_columns(moe, experts, exact, job / groups, job % groups,
                           moe.scratch.of(thread));
            }
        }
    });
    for (int64_t e = 0; e < moe.experts; ++e) {
        pack_hidden(moe, experts, exact, e);
        if (moe.hidden[e].slots > 0 && is_packed(experts[3 * e + 2])) {
            parallel_for(moe.hidden[e].chunks(), 1, [&](int64_t first, int64_t last, int) {
                pack_chunks(moe.hidden[e], first, last);
            });
        }
    }
    if (moe.adapters != nullptr) {
        add_parts(moe, ffn);
    }
    down(moe, experts, width, x);
}

// The experts of one layer by themselves. Returns as abi.h says.
int64_t moe(const MixtralMoe& call) {
    Arena arena = {call.workspace, 0};
    Moe state = lay_out_moe(arena, call.tokens, call.num_experts, call.per_token, call.hidden,
                            call.ffn);
    if (arena.used > call.workspace_bytes) {
        return arena.used;
    }
    for (int64_t i = 0; i < call.tokens * call.per_token; ++i) {
        state.expert_of[i] = static_cast<int32_t>(call.expert_ids[i]);
        state.weight_of[i] = call.routing_weights[i];
    }
    memset(call.out, 0, static_cast<size_t>(call.tokens * call.hidden) * sizeof(float));
    run_experts(state, call.experts, call.exact != 0, call.x, call.hidden, call.out);
    return 0;
}

}  // namespace
