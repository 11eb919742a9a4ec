// What Python hands to the training kernels; mirrored in ../../cpu_training.py. All tensors are
// float32, row-major and contiguous unless a line says otherwise.
#pragma once

#include <stdint.h>

// Causal grouped-query attention inside each of S packed sequences.
struct MixtralAttention {
    int64_t num_sequences, heads, kv_heads, head_dim;
    int64_t window;          // positions that a query sees, itself included; 0: all before it
    const int64_t* starts;   // [S + 1]
    const float* query;      // [T, H, K]
    const float* key;        // [T, G, K]
    const float* value;      // [T, G, K]
    float* out;              // [T, H, K]
    float* log_sums;         // [T, H], log of the softmax's denominator
    // Of the backward pass alone.
    const float* out_grad;   // [T, H, K]
    float* query_grad;       // [T, H, K]
    float* key_grad;         // [T, G, K]
    float* value_grad;       // [T, G, K]
    float* workspace;
    int64_t workspace_floats;
};

// Output head and next-token loss of R rows, with the gradients of grad_scale * sum of losses.
struct MixtralHeadLoss {
    int64_t rows, hidden, vocab;
    float grad_scale;
    const float* states;     // [R, D]
    const float* weight;     // [V, D]
    const int64_t* targets;  // [R], from 0 to V - 1
    float* losses;           // [R], -log softmax(weight states)[target]
    float* states_grad;      // [R, D], or null where nobody needs it
    float* weight_grad;      // [V, D], or null
    float* workspace;
    int64_t workspace_floats;
};
