// The model and one step of it, as ../structures.py hands them over; ctypes structures there.
#pragma once

#include <stdint.h>

// A weight [rows, cols]: packed (low_bit.h), or bfloat16 as it lies in a checkpoint.
struct MixtralWeight {
    const uint8_t* data;
    int64_t rows, cols;
    int64_t format;  // WeightFormat
};

struct MixtralLayer {
    const float* input_norm;      // [hidden]
    const float* post_norm;       // [hidden]
    const float* gate;            // [experts, hidden]; null in a dense model
    MixtralWeight q, k, v, o;
    const MixtralWeight* experts;  // w1, w3, w2 of expert 0, of expert 1, ...
    int64_t experts_per_token;     // at most the model's
};

struct MixtralModel {
    int64_t layers, hidden, ffn, vocab;
    int64_t heads, kv_heads, head_dim;
    int64_t experts, experts_per_token;  // 1 and 0: dense; the most of any layer
    int64_t window;                      // tokens that a position sees; 0: all
    double eps;
    int64_t exact;                // 1: two int8 rows for every token state, about 16 bits
    int64_t kv_int8;              // 1: keys and values are cached in int8, else in bfloat16
    const float* frequencies;     // [head_dim / 2]
    const uint16_t* embedding;    // [vocab, hidden], bfloat16
    const float* norm;            // [hidden]
    MixtralWeight head;
    const MixtralLayer* layer;
};

// What an adapter adds to one weight (adapters.h has the layouts).
struct MixtralLowRank {
    const float* a;  // A [rank, cols]
    const float* b;  // B [rows, rank] times the scale
    int64_t rank;    // 0: the adapter leaves this weight as it is
};

// The adapters that the sequences of a step may have.
struct MixtralAdapters {
    int64_t max_rank;
    const MixtralLowRank* table;  // [adapters, layers, weights of a layer]: q, k, v, o, gate, then
                                  // w1, w3, w2 of expert 0, of expert 1, ...
    const int64_t* of_sequence;   // [sequences], -1: none
    uint8_t* workspace;
};

struct MixtralBatch {
    int64_t tokens, sequences;
    int64_t num_rows;            // rows of logits wanted
    int64_t block_size;          // tokens of a cache block, a multiple of 16
    int64_t table_width;         // blocks in a row of `tables`
    int64_t cache_slots;         // tokens that the cache holds
    const int64_t* ids;          // [tokens]
    const int64_t* positions;    // [tokens]
    const int64_t* starts;       // [sequences + 1]
    const int64_t* tables;       // [sequences, table_width]
    const int64_t* row_ids;      // [num_rows], tokens whose logits are wanted
    uint8_t* cache;
    float* logits;               // [num_rows, vocab]
    float* router_logits;        // [tokens, layers, experts], or null
    int64_t* expert_ids;         // [tokens, layers, experts_per_token], or null; -1: no more
    float* routing_weights;      // the same shape, or null
    int64_t* expert_load;        // [layers, experts], set to the visits of this step, or null
    uint8_t* workspace;
    int64_t workspace_bytes;
    const MixtralAdapters* adapters;  // null: no sequence has one
};

// The experts of one layer by themselves, for tests and measurements.
struct MixtralMoe {
    int64_t tokens, hidden, ffn, num_experts, per_token, exact;
    const float* x;                 // [tokens, hidden]
    const int64_t* expert_ids;      // [tokens, per_token]
    const float* routing_weights;   // [tokens, per_token]
    const MixtralWeight* experts;   // w1, w3, w2 of expert 0, of expert 1, ...
    float* out;                     // [tokens, hidden]
    uint8_t* workspace;
    int64_t workspace_bytes;
};
