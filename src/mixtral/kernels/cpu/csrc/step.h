// One whole step: token ids in, logits out, all layers in between, in one call.
//
// The states between the layers are float32. Regions of a layer, each one fork and join of the pool:
// norm and codes of the states, q k v, rotary and cache, attention, codes, o, norm and router, codes
// by expert, up, codes, down. A region with one token runs on the calling thread.
#pragma once

#include "adapters.h"
#include "attention.h"
#include "moe.h"

namespace {

struct Workspace {
    float *x, *normed, *qkv, *attended, *cosines, *sines, *logits;
    uint8_t *states, *heads, *last;
    Scratch scratch;
    Moe moe;
    const LayerAdapters* adapters;  // null: no token has one
};

inline Workspace lay_out(const MixtralModel& m, int64_t tokens, int64_t rows, Arena& arena) {
    Workspace w = {};
    const int64_t query_width = m.heads * m.head_dim;
    w.x = arena.array<float>(tokens * m.hidden);
    w.normed = arena.array<float>(tokens * m.hidden);
    w.qkv = arena.array<float>(tokens * (m.heads + 2 * m.kv_heads) * m.head_dim);
    w.attended = arena.array<float>(tokens * query_width);
    w.cosines = arena.array<float>(tokens * m.head_dim / 2);
    w.sines = arena.array<float>(tokens * m.head_dim / 2);
    w.logits = arena.array<float>(tokens * m.experts);
    w.states = arena.bytes(input_bytes(tokens, m.hidden));
    w.heads = arena.bytes(input_bytes(tokens, query_width));
    w.last = arena.bytes(input_bytes(rows, m.hidden));
    const int64_t per_token = m.experts_per_token > 0 ? m.experts_per_token : 1;
    w.moe = lay_out_moe(arena, tokens, m.experts, per_token, m.hidden, m.ffn);
    const int64_t widest = query_width > m.hidden ? query_width : m.hidden;
    w.scratch.bytes = scratch_bytes(widest);
    w.scratch.memory = arena.bytes(pool_threads() * w.scratch.bytes);
    return w;
}

inline void norm_row(const float* x, const float* weight, float eps, int64_t cols, float* out) {
    const float mean = sum_of_squares(x, cols) / static_cast<float>(cols);
    const float scale = 1.0f / sqrtf(mean + eps);
    for (int64_t c = 0; c < cols; ++c) {
        out[c] = x[c] * scale * weight[c];
    }
}

inline void norm_rows(const MixtralModel& m, const float* weight, int64_t tokens, const float* x,
                      float* out) {
    parallel_for(tokens, 8, [&](int64_t first, int64_t last, int) {
        for (int64_t t = first; t < last; ++t) {
            norm_row(x + t * m.hidden, weight, static_cast<float>(m.eps), m.hidden,
                     out + t * m.hidden);
        }
    });
}

// Turns channel i of a head with channel i + head_dim / 2 (arXiv:2104.09864, in split halves).
inline void rotate(float* head, const float* cosines, const float* sines, int64_t head_dim) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[half + i] = b * cosines[i] + a * sines[i];
    }
}

inline void make_rotary(const MixtralModel& m, const MixtralBatch& b, const Workspace& w) {
    const int64_t half = m.head_dim / 2;
    parallel_for(b.tokens, 16, [&](int64_t first, int64_t last, int) {
        for (int64_t t = first; t < last; ++t) {
            for (int64_t i = 0; i < half; ++i) {
                const float angle = static_cast<float>(b.positions[t]) * m.frequencies[i];
                w.cosines[t * half + i] = cosf(angle);
                w.sines[t * half + i] = sinf(angle);
            }
        }
    });
}

inline CacheLayer cache_layer(const MixtralModel& m, const MixtralBatch& b, int64_t layer) {
    CacheLayer cache = {nullptr, nullptr, m.kv_heads, m.head_dim, m.kv_int8 ? 4 : 2};
    const int64_t tiles = b.cache_slots / kTileTokens16 * m.kv_heads;
    const int64_t key_bytes = tiles * cache.key_tile_bytes();
    const int64_t layer_bytes = key_bytes + tiles * cache.value_tile_bytes();
    cache.keys = b.cache + layer * layer_bytes;
    cache.values = cache.keys + key_bytes;
    return cache;
}

inline int64_t cache_bytes_per_slot(const MixtralModel& m) {
    const CacheLayer cache = {nullptr, nullptr, m.kv_heads, m.head_dim, m.kv_int8 ? 4 : 2};
    return m.layers * m.kv_heads * (cache.key_tile_bytes() + cache.value_tile_bytes()) /
           kTileTokens16;
}

// Rotates queries and keys, scales the queries, and writes keys and values to the cache.
inline void fill_cache(const MixtralModel& m, const MixtralBatch& b, const Workspace& w,
                       const CacheLayer& cache) {
    const int64_t row = (m.heads + 2 * m.kv_heads) * m.head_dim;
    const float scale = 1.0f / sqrtf(static_cast<float>(m.head_dim));
    for (int64_t s = 0; s < b.sequences; ++s) {
        const BlockTable table = {b.tables + s * b.table_width, b.block_size};
        const int64_t begin = b.starts[s];
        parallel_for(b.starts[s + 1] - begin, 8, [&](int64_t first, int64_t last, int) {
            for (int64_t t = begin + first; t < begin + last; ++t) {
                float* qkv = w.qkv + t * row;
                const float* cosines = w.cosines + t * m.head_dim / 2;
                const float* sines = w.sines + t * m.head_dim / 2;
                for (int64_t h = 0; h < m.heads + m.kv_heads; ++h) {
                    rotate(qkv + h * m.head_dim, cosines, sines, m.head_dim);
                }
                for (int64_t i = 0; i < m.heads * m.head_dim; ++i) {
                    qkv[i] *= scale;
                }
                const float* key = qkv + m.heads * m.head_dim;
                for (int64_t g = 0; g < m.kv_heads; ++g) {
                    cache.write(table.slot(b.positions[t]), g, key + g * m.head_dim,
                                key + (m.kv_heads + g) * m.head_dim);
                }
            }
        });
    }
}

// Jobs: sequence, key head, and a block of its tokens such that all their query heads fit.
inline void attend_all(const MixtralModel& m, const MixtralBatch& b, const Workspace& w,
                       const CacheLayer& cache) {
    const int64_t row = (m.heads + 2 * m.kv_heads) * m.head_dim;
    const int64_t heads_per_group = m.heads / m.kv_heads;
    const int64_t heads_at_once = heads_per_group < kMaxRows ? heads_per_group : kMaxRows;
    const int64_t tokens_at_once = kMaxRows / heads_at_once;
    int64_t jobs = 0;
    for (int64_t s = 0; s < b.sequences; ++s) {
        jobs += divide_up(b.starts[s + 1] - b.starts[s], tokens_at_once);
    }
    parallel_for(jobs * m.kv_heads, 1, [&](int64_t first, int64_t last, int) {
        for (int64_t job = first; job < last; ++job) {
            // Late blocks see the most keys, so they go first.
            int64_t block = jobs - 1 - job / m.kv_heads, s = 0;
            const int64_t group = job % m.kv_heads;
            for (;; ++s) {
                const int64_t blocks = divide_up(b.starts[s + 1] - b.starts[s], tokens_at_once);
                if (block < blocks) {
                    break;
                }
                block -= blocks;
            }
            const BlockTable table = {b.tables + s * b.table_width, b.block_size};
            const int64_t begin = b.starts[s] + block * tokens_at_once;
            const int64_t wanted = begin + tokens_at_once;
            const int64_t end = wanted < b.starts[s + 1] ? wanted : b.starts[s + 1];
            for (int64_t h0 = 0; h0 < heads_per_group; h0 += heads_at_once) {
                const int64_t h1 =
                    h0 + heads_at_once < heads_per_group ? h0 + heads_at_once : heads_per_group;
                QueryBlock queries;
                queries.rows = 0;
                for (int64_t t = begin; t < end; ++t) {
                    for (int64_t h = group * heads_per_group + h0; h < group * heads_per_group + h1;
                         ++h) {
                        queries.query[queries.rows] = w.qkv + t * row + h * m.head_dim;
                        queries.out[queries.rows] = w.attended + (t * m.heads + h) * m.head_dim;
                        queries.position[queries.rows++] = b.positions[t];
                    }
                }
                (m.kv_int8 ? attend<4> : attend<2>)(queries, cache, group, table, m.window);
            }
        }
    });
}

inline void attention_block(const MixtralModel& m, const MixtralBatch& b, const MixtralLayer& layer,
                            int64_t index, Workspace& w) {
    const int64_t tokens = b.tokens, row = (m.heads + 2 * m.kv_heads) * m.head_dim;
    norm_rows(m, layer.input_norm, tokens, w.x, w.normed);
    Input states = lay_out_input(w.states, tokens, m.hidden);
    const MixtralWeight* weights[3] = {&layer.q, &layer.k, &layer.v};
    int64_t panels[4] = {0, 0, 0, 0}, column[3] = {0, layer.q.rows, layer.q.rows + layer.k.rows};
    for (int i = 0; i < 3; ++i) {
        prepare(states, *weights[i], m.exact, [&](int64_t t) { return w.normed + t * m.hidden; });
        panels[i + 1] = panels[i] + num_panels(*weights[i]);
    }
    if (w.adapters != nullptr) {
        shrink(*w.adapters, tokens, 3, m.hidden,
               [&](int64_t t, int64_t which) { return w.adapters->find(t, kAdaptedQ + which); },
               [&](int64_t t) { return w.normed + t * m.hidden; });
    }
    parallel_for(panels[3], panel_grain(panels[3]), [&](int64_t first, int64_t last, int thread) {
        for (int i = 0; i < 3; ++i) {
            const int64_t begin = first > panels[i] ? first : panels[i];
            const int64_t end = last < panels[i + 1] ? last : panels[i + 1];
            if (begin >= end) {
                continue;
            }
            run_panels(states, *weights[i], begin - panels[i], end - panels[i],
                       w.scratch.of(thread), [&](int64_t t, int64_t panel, const float* sums) {
                           alignas(64) float room[kPanel];
                           sums = with_adapter(w.adapters, {t, kAdaptedQ + i, t, i}, panel, sums,
                                               room);
                           memcpy(w.qkv + t * row + column[i] + panel * kPanel, sums,
                                  static_cast<size_t>(panel_rows(*weights[i], panel)) *
                                      sizeof(float));
                       });
        }
    });
    const CacheLayer cache = cache_layer(m, b, index);
    fill_cache(m, b, w, cache);
    attend_all(m, b, w, cache);
    Input heads = lay_out_input(w.heads, tokens, m.heads * m.head_dim);
    prepare(heads, layer.o, m.exact,
            [&](int64_t t) { return w.attended + t * m.heads * m.head_dim; });
    if (w.adapters != nullptr) {
        shrink(*w.adapters, tokens, 1, m.heads * m.head_dim,
               [&](int64_t t, int64_t) { return w.adapters->find(t, kAdaptedO); },
               [&](int64_t t) { return w.attended + t * m.heads * m.head_dim; });
    }
    product(heads, layer.o, w.scratch, [&](int64_t t, int64_t first, int64_t count, const float* sums) {
        alignas(64) float room[kPanel];
        sums = with_adapter(w.adapters, {t, kAdaptedO, t, 0}, first / kPanel, sums, room);
        for (int64_t r = 0; r < count; ++r) {
            w.x[t * m.hidden + first + r] += sums[r];
        }
    });
}

inline void note_routing(const MixtralModel& m, const MixtralBatch& b, int64_t index,
                         const Workspace& w) {
    const int64_t experts = m.experts, width = m.experts_per_token, per_token = w.moe.per_token;
    for (int64_t t = 0; t < b.tokens; ++t) {
        memcpy(b.router_logits + (t * m.layers + index) * experts, w.logits + t * experts,
               static_cast<size_t>(experts) * sizeof(float));
        for (int64_t a = 0; a < width; ++a) {
            const int64_t to = (t * m.layers + index) * width + a;
            b.expert_ids[to] = a < per_token ? w.moe.expert_of[t * per_token + a] : -1;
            b.routing_weights[to] = a < per_token ? w.moe.weight_of[t * per_token + a] : 0.0f;
        }
    }
}

inline void count_visits(const MixtralModel& m, const MixtralBatch& b, int64_t index,
                         const Moe& moe) {
    int64_t* visits = b.expert_load + index * m.experts;
    memset(visits, 0, static_cast<size_t>(m.experts) * sizeof(int64_t));
    for (int64_t i = 0; i < moe.tokens * moe.per_token; ++i) {
        ++visits[moe.expert_of[i]];
    }
}

inline void expert_block(const MixtralModel& m, const MixtralBatch& b, const MixtralLayer& layer,
                         int64_t index, Workspace& w) {
    Moe& moe = w.moe;
    norm_rows(m, layer.post_norm, b.tokens, w.x, w.normed);
    if (layer.gate == nullptr) {
        for (int64_t t = 0; t < b.tokens; ++t) {
            moe.expert_of[t] = 0;
            moe.weight_of[t] = 1.0f;
        }
    } else {
        moe.per_token = layer.experts_per_token;
        parallel_for(b.tokens, 8, [&](int64_t first, int64_t last, int) {
            for (int64_t t = first; t < last; ++t) {
                float* logits = w.logits + t * m.experts;
                for (int64_t e = 0; e < m.experts; ++e) {
                    logits[e] = dot_product(layer.gate + e * m.hidden, w.normed + t * m.hidden,
                                            m.hidden);
                }
                if (w.adapters != nullptr) {
                    adapt_router(*w.adapters, t, w.normed + t * m.hidden, m.hidden, m.experts,
                                 logits);
                }
                route_token(logits, m.experts, moe.per_token, moe.expert_of + t * moe.per_token,
                            moe.weight_of + t * moe.per_token);
            }
        });
        if (b.router_logits != nullptr) {
            note_routing(m, b, index, w);
        }
        if (b.expert_load != nullptr) {
            count_visits(m, b, index, moe);
        }
    }
    moe.adapters = w.adapters;
    run_experts(moe, layer.experts, m.exact != 0, w.normed, m.hidden, w.x);
}

// Bytes of MixtralAdapters.workspace.
int64_t adapter_workspace_bytes(const MixtralModel& m, int64_t tokens, int64_t max_rank) {
    Arena arena = {nullptr, 0};
    lay_out_adapters(arena, m, tokens, max_rank);
    return arena.used;
}

int64_t kv_cache_bytes(const MixtralModel& m, int64_t slots) {
    return cache_bytes_per_slot(m) * slots;
}

// Returns as abi.h says.
int64_t run_step(const MixtralModel& m, const MixtralBatch& b) {
    Arena arena = {b.workspace, 0};
    Workspace w = lay_out(m, b.tokens, b.num_rows, arena);
    if (arena.used > b.workspace_bytes) {
        return arena.used;
    }
    for (int64_t t = 0; t < b.tokens; ++t) {
        const uint16_t* row = m.embedding + b.ids[t] * m.hidden;
        for (int64_t c = 0; c < m.hidden; ++c) {
            w.x[t * m.hidden + c] = from_bf16_bits(row[c]);
        }
    }
    make_rotary(m, b, w);
    LayerAdapters adapters = {};
    if (b.adapters != nullptr) {
        adapters = first_layer(m, b);
        w.adapters = &adapters;
    }
    for (int64_t i = 0; i < m.layers; ++i, adapters.table += adapted_weights(m)) {
        attention_block(m, b, m.layer[i], i, w);
        expert_block(m, b, m.layer[i], i, w);
    }
    parallel_for(b.num_rows, 8, [&](int64_t first, int64_t last, int) {
        for (int64_t r = first; r < last; ++r) {
            norm_row(w.x + b.row_ids[r] * m.hidden, m.norm, static_cast<float>(m.eps), m.hidden,
                     w.normed + r * m.hidden);
        }
    });
    Input last = lay_out_input(w.last, b.num_rows, m.hidden);
    prepare(last, m.head, m.exact, [&](int64_t r) { return w.normed + r * m.hidden; });
    product(last, m.head, w.scratch, [&](int64_t r, int64_t first, int64_t count, const float* sums) {
        memcpy(b.logits + r * m.vocab + first, sums, static_cast<size_t>(count) * sizeof(float));
    });
    return 0;
}

}  // namespace
