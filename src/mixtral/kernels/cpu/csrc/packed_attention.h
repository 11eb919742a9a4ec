// Causal attention over packed sequences with its backward pass, float32, for training.
//
// A job is one key head of one sequence; nothing crosses jobs, so the bits do not depend on the
// threads or on the other sequences. Softmax runs over blocks of keys with a running maximum, and
// the backward pass makes each block of weights again from the saved denominators instead of
// keeping them (FlashAttention-2, arXiv:2307.08691, algorithms 1 and 2). Blocks that no query of a
// block sees are skipped.
#pragma once

#include <math.h>

#include "matmul.h"
#include "pool.h"
#include "training.h"

namespace {

constexpr int64_t kQueryRows = 48;
constexpr int64_t kKeyCols = 96;  // a multiple of every level's kRowTile and kPanelCols

// One key head of one sequence.
struct AttentionHead {
    const MixtralAttention& call;
    int64_t begin, length, head;

    int64_t width() const { return round_up(call.head_dim, kPanelCols); }
    int64_t padded_length() const { return round_up(length, kKeyCols); }
    int64_t panels() const { return width() / kPanelCols; }
    int64_t group_size() const { return call.heads / call.kv_heads; }
    int64_t query_step() const { return call.heads * call.head_dim; }
    int64_t key_step() const { return call.kv_heads * call.head_dim; }
    int64_t query_offset(int64_t member, int64_t row) const {
        return (begin + row) * query_step() + (head * group_size() + member) * call.head_dim;
    }
    int64_t key_offset() const { return begin * key_step() + head * call.head_dim; }
    float scale() const { return 1.0f / sqrtf(static_cast<float>(call.head_dim)); }
    float* log_sum(int64_t member, int64_t row) const {
        return call.log_sums + (begin + row) * call.heads + head * group_size() + member;
    }
};

// Queries `first` to `first + rows - 1` against keys `key` to `key + cols - 1`.
struct AttentionBlock {
    int64_t first, rows, key, cols, window;

    // First and one past the last column that row r sees.
    int64_t seen_begin(int64_t r) const {
        const int64_t oldest = window > 0 ? first + r - window + 1 - key : 0;
        return oldest < 0 ? 0 : oldest > cols ? cols : oldest;
    }
    int64_t seen_end(int64_t r) const {
        const int64_t count = first + r + 1 - key;
        return count < 0 ? 0 : count > cols ? cols : count;
    }
};

inline void hide_unseen(const AttentionBlock& block, int64_t r, float* row, float hidden) {
    for (int64_t c = 0; c < block.seen_begin(r); ++c) {
        row[c] = hidden;
    }
    for (int64_t c = block.seen_end(r); c < block.cols; ++c) {
        row[c] = hidden;
    }
}

// Calls body(block) for every block of keys that some query of [first, first + rows) sees.
template <typename Body>
inline void for_key_blocks(int64_t first, int64_t rows, int64_t window, const Body& body) {
    const int64_t oldest = window > 0 && first >= window ? first - window + 1 : 0;
    for (int64_t key = oldest / kKeyCols * kKeyCols; key < first + rows; key += kKeyCols) {
        const int64_t seen = round_up(first + rows - key, kPanelCols);
        body(AttentionBlock{first, rows, key, seen < kKeyCols ? seen : kKeyCols, window});
    }
}

// Turns scores into weights and returns what the sums so far must be multiplied with.
inline float soften_row(float* scores, int64_t cols, float* largest, float* total) {
    Floats best = load_floats(scores);
    for (int64_t c = kWidth; c < cols; c += kWidth) {
        best = larger(best, load_floats(scores + c));
    }
    const float block_largest = largest_lane(best);
    float shift = 1.0f;
    if (block_largest > *largest) {
        shift = expf(*largest - block_largest);  // 0 at the first block
        *largest = block_largest;
    }
    // A row that has seen nothing yet: e^(-inf - 0) is 0, e^(-inf + inf) would be NaN.
    const float peak = *largest > -INFINITY ? *largest : 0.0f;
    float sums[kLanes] = {};
    for (int64_t c = 0; c < cols; c += kWidth) {
        const Floats weight = exponential(load_floats(scores + c) - peak);
        store_floats(scores + c, weight);
        float* lanes = sums + c % kLanes;
        store_floats(lanes, load_floats(lanes) + weight);
    }
    *total = *total * shift + tree_sum(sums);
    return shift;
}

// Of one thread; the backward pass needs more than the forward pass.
inline int64_t attention_floats(int64_t length, int64_t head_dim) {
    const int64_t width = round_up(head_dim, kPanelCols);
    return round_up(length, kKeyCols) * 5 * width + kQueryRows * (5 * width + 2 * kKeyCols);
}

// Where the parts of a forward job lie in its workspace.
struct ForwardRoom {
    float *keys;    // the transpose, packed
    float *values;  // packed
    float *query, *sums, *scores;

    ForwardRoom(const AttentionHead& h, float* workspace) {
        const int64_t size = h.padded_length() * h.width(), block = kQueryRows * h.width();
        keys = workspace;
        values = keys + size;
        query = values + size;
        sums = query + block;
        scores = sums + block;
    }
};

// Rows `first` and on of one query head against all keys that they see.
void forward_block(const AttentionHead& h, const ForwardRoom& room, int64_t member, int64_t first) {
    const int64_t width = h.width(), length = h.padded_length(), dim = h.call.head_dim;
    const int64_t rows = h.length - first < kQueryRows ? h.length - first : kQueryRows;
    const int64_t padded = round_up(rows, kRowTile);
    float largest[kQueryRows], total[kQueryRows] = {};
    for (float& value : largest) {
        value = -INFINITY;
    }
    copy_padded(h.call.query + h.query_offset(member, first), rows, dim, h.query_step(), h.scale(),
                room.query, padded, width);
    memset(room.sums, 0, static_cast<size_t>(padded * width) * sizeof(float));
    for_key_blocks(first, rows, h.call.window, [&](const AttentionBlock& block) {
        multiply({room.query, width, 1}, padded, dim, room.keys + block.key * dim,
                 block.cols / kPanelCols, dim * kPanelCols, room.scores, kKeyCols, false);
        for (int64_t r = 0; r < rows; ++r) {
            float* row = room.scores + r * kKeyCols;
            hide_unseen(block, r, row, -INFINITY);
            const float shift = soften_row(row, block.cols, &largest[r], &total[r]);
            for (int64_t c = 0; shift != 1.0f && c < width; ++c) {
                room.sums[r * width + c] *= shift;
            }
        }
        multiply({room.scores, kKeyCols, 1}, padded, block.cols,
                 room.values + block.key * kPanelCols, h.panels(), length * kPanelCols, room.sums,
                 width, true);
    });
    for (int64_t r = 0; r < rows; ++r) {
        const float inverse = 1.0f / total[r];
        float* out = h.call.out + h.query_offset(member, first + r);
        for (int64_t c = 0; c < dim; ++c) {
            out[c] = room.sums[r * width + c] * inverse;
        }
        *h.log_sum(member, first + r) = largest[r] + logf(total[r]);
    }
}

void attend_forward(const AttentionHead& h, float* workspace) {
    const ForwardRoom room(h, workspace);
    const int64_t length = h.padded_length(), dim = h.call.head_dim;
    pack_transposed(h.call.key + h.key_offset(), dim, h.length, h.key_step(), room.keys,
                    dim * kPanelCols);
    pack_panels(h.call.value + h.key_offset(), h.length, dim, h.key_step(), room.values,
                length * kPanelCols);
    for (int64_t p = 0; p < h.panels(); ++p) {  // weights of 0 must meet finite values
        memset(room.values + (p * length + h.length) * kPanelCols, 0,
               static_cast<size_t>((length - h.length) * kPanelCols) * sizeof(float));
    }
    for (int64_t member = 0; member < h.group_size(); ++member) {
        for (int64_t first = 0; first < h.length; first += kQueryRows) {
            forward_block(h, room, member, first);
        }
    }
}

// Turns scores and the gradient of the weights into the weights and the gradient of the scores.
inline void weights_and_gradients(const AttentionBlock& block, int64_t padded,
                                  const float* log_sums, const float* dots, float* scores,
                                  float* grads) {
    for (int64_t r = 0; r < padded; ++r) {
        float* weights = scores + r * kKeyCols;
        float* grad = grads + r * kKeyCols;
        if (r < block.rows) {
            hide_unseen(block, r, weights, -INFINITY);
        }
        for (int64_t c = 0; c < block.cols; c += kWidth) {
            const Floats weight = exponential(load_floats(weights + c) - log_sums[r]);
            store_floats(weights + c, weight);
            store_floats(grad + c, weight * (load_floats(grad + c) - dots[r]));
        }
        for (int64_t c = block.cols; c < round_up(block.cols, kRowTile); ++c) {
            weights[c] = grad[c] = 0.0f;  // read as rows of the transposes
        }
    }
}

// Where the parts of a backward job lie in its workspace.
struct BackwardRoom {
    float *keys, *keys_across, *values_across;  // packed; across: the transpose
    float *key_grad, *value_grad;               // sums over the query heads of the group
    // One block of queries, and of the gradient of its output, as rows and packed.
    float *query, *query_panels, *out_grad, *out_panels, *query_grad;
    float *scores, *grads;

    BackwardRoom(const AttentionHead& h, float* workspace) {
        const int64_t size = h.padded_length() * h.width(), block = kQueryRows * h.width();
        keys = workspace;
        keys_across = keys + size;
        values_across = keys_across + size;
        key_grad = values_across + size;
        value_grad = key_grad + size;
        query = value_grad + size;
        query_panels = query + block;
        out_grad = query_panels + block;
        out_panels = out_grad + block;
        query_grad = out_panels + block;
        scores = query_grad + block;
        grads = scores + kQueryRows * kKeyCols;
    }
};

// What the queries `first` and on add to the gradients, `padded` rows of them in the room.
void backward_products(const AttentionHead& h, const BackwardRoom& room,
                       const AttentionBlock& block, int64_t padded, const float* log_sums,
                       const float* dots) {
    const int64_t width = h.width(), length = h.padded_length(), dim = h.call.head_dim;
    const int64_t cols = block.cols / kPanelCols, across = block.key * dim;
    const int64_t key_rows = round_up(block.cols, kRowTile);
    multiply({room.query, width, 1}, padded, dim, room.keys_across + across, cols,
             dim * kPanelCols, room.scores, kKeyCols, false);
    multiply({room.out_grad, width, 1}, padded, dim, room.values_across + across, cols,
             dim * kPanelCols, room.grads, kKeyCols, false);
    weights_and_gradients(block, padded, log_sums, dots, room.scores, room.grads);
    multiply({room.grads, kKeyCols, 1}, padded, block.cols, room.keys + block.key * kPanelCols,
             h.panels(), length * kPanelCols, room.query_grad, width, true);
    multiply({room.scores, 1, kKeyCols}, key_rows, padded, room.out_panels, h.panels(),
             kQueryRows * kPanelCols, room.value_grad + block.key * width, width, true);
    multiply({room.grads, 1, kKeyCols}, key_rows, padded, room.query_panels, h.panels(),
             kQueryRows * kPanelCols, room.key_grad + block.key * width, width, true);
}

void backward_block(const AttentionHead& h, const BackwardRoom& room, int64_t member,
                    int64_t first) {
    const int64_t width = h.width(), dim = h.call.head_dim, step = h.query_step();
    const int64_t rows = h.length - first < kQueryRows ? h.length - first : kQueryRows;
    const int64_t padded = round_up(rows, kRowTile), offset = h.query_offset(member, first);
    copy_padded(h.call.query + offset, rows, dim, step, h.scale(), room.query, padded, width);
    copy_padded(h.call.out_grad + offset, rows, dim, step, 1.0f, room.out_grad, padded, width);
    pack_panels(room.query, padded, width, width, room.query_panels, kQueryRows * kPanelCols);
    pack_panels(room.out_grad, padded, width, width, room.out_panels, kQueryRows * kPanelCols);
    memset(room.query_grad, 0, static_cast<size_t>(padded * width) * sizeof(float));
    float log_sums[kQueryRows] = {}, dots[kQueryRows] = {};
    for (int64_t r = 0; r < rows; ++r) {
        log_sums[r] = *h.log_sum(member, first + r);
        dots[r] = dot_product(h.call.out + offset + r * step, room.out_grad + r * width, dim);
    }
    for_key_blocks(first, rows, h.call.window, [&](const AttentionBlock& block) {
        backward_products(h, room, block, padded, log_sums, dots);
    });
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < dim; ++c) {
            h.call.query_grad[offset + r * step + c] = room.query_grad[r * width + c] * h.scale();
        }
    }
}

void attend_backward(const AttentionHead& h, float* workspace) {
    const BackwardRoom room(h, workspace);
    const int64_t width = h.width(), length = h.padded_length(), dim = h.call.head_dim;
    const float *key = h.call.key + h.key_offset(), *value = h.call.value + h.key_offset();
    memset(workspace, 0, static_cast<size_t>(5 * length * width) * sizeof(float));
    pack_panels(key, h.length, dim, h.key_step(), room.keys, length * kPanelCols);
    pack_transposed(key, dim, h.length, h.key_step(), room.keys_across, dim * kPanelCols);
    pack_transposed(value, dim, h.length, h.key_step(), room.values_across, dim * kPanelCols);
    for (int64_t member = 0; member < h.group_size(); ++member) {
        for (int64_t first = 0; first < h.length; first += kQueryRows) {
            backward_block(h, room, member, first);
        }
    }
    for (int64_t r = 0; r < h.length; ++r) {
        const int64_t to = h.key_offset() + r * h.key_step();
        const size_t size = static_cast<size_t>(dim) * sizeof(float);
        memcpy(h.call.key_grad + to, room.key_grad + r * width, size);
        memcpy(h.call.value_grad + to, room.value_grad + r * width, size);
    }
}

int64_t longest_sequence(const MixtralAttention& call) {
    int64_t longest = 0;
    for (int64_t i = 0; i < call.num_sequences; ++i) {
        const int64_t length = call.starts[i + 1] - call.starts[i];
        longest = length > longest ? length : longest;
    }
    return longest;
}

// Returns as abi.h says.
int64_t packed_attention(const MixtralAttention& call, bool is_backward) {
    const int64_t per_thread = attention_floats(longest_sequence(call), call.head_dim);
    if (pool_threads() * per_thread > call.workspace_floats) {
        return pool_threads() * per_thread;
    }
    parallel_for(call.num_sequences * call.kv_heads, 1, [&](int64_t from, int64_t to, int thread) {
        for (int64_t job = from; job < to; ++job) {
            const int64_t sequence = job / call.kv_heads, begin = call.starts[sequence];
            const AttentionHead head = {call, begin, call.starts[sequence + 1] - begin,
                                        job % call.kv_heads};
            float* workspace = call.workspace + thread * per_thread;
            is_backward ? attend_backward(head, workspace) : attend_forward(head, workspace);
        }
    });
    return 0;
}

}  // namespace
