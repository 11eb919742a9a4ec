// The output head with the next-token loss, and both gradients in the same call, float32.
//
// Rows come in chunks. Their logits are made block of words by block of words, and kept as
// e^(logit - largest of the row in the block); when the sums of the softmax are known, one factor
// per row makes them the gradient, and both products follow while the block is in the cache. So the
// largest buffer is [kHeadRows, V], whatever the number of rows. Sums over blocks go to kHeadParts
// accumulators, in an order that does not depend on the threads.
#pragma once

#include <math.h>

#include "low_bit.h"
#include "matmul.h"
#include "pool.h"
#include "training.h"

namespace {

constexpr int64_t kHeadRows = 384;  // a multiple of every level's kRowTile
constexpr int64_t kWordBlock = 96;  // likewise, and of kPanelCols
constexpr int64_t kHeadParts = 16;

// Sizes and places in the workspace.
struct HeadPlan {
    const MixtralHeadLoss& call;
    int64_t blocks, width, rows;  // blocks of words, D with padding, rows of (nearly equal) chunks

    explicit HeadPlan(const MixtralHeadLoss& call)
        : call(call), blocks(divide_up(call.vocab, kWordBlock)),
          width(round_up(call.hidden, kPanelCols)),
          rows(round_up(divide_up(call.rows, divide_up(call.rows, kHeadRows)), kRowTile)) {}

    int64_t scores_floats() const { return blocks * rows * kWordBlock; }
    int64_t thread_floats() const { return 2 * kWordBlock * width; }
    float* scores(int64_t block) const { return call.workspace + block * rows * kWordBlock; }
    float* peaks(int64_t block) const {
        return call.workspace + scores_floats() + block * 2 * rows;
    }
    float* totals(int64_t block) const { return peaks(block) + rows; }
    float* log_sums() const { return peaks(blocks); }
    float* states() const { return log_sums() + rows; }           // rows
    float* state_panels() const { return states() + rows * width; }  // the same, packed
    float* sums(int64_t part) const { return state_panels() + (1 + part) * rows * width; }
    float* of_thread(int thread) const { return sums(kHeadParts) + thread * thread_floats(); }
    int64_t floats() const {
        return scores_floats() + (2 * blocks + 1) * rows + (2 + kHeadParts) * rows * width +
               pool_threads() * thread_floats();
    }
    int64_t words(int64_t block) const {
        const int64_t left = call.vocab - block * kWordBlock;
        return left < kWordBlock ? left : kWordBlock;
    }
};

// Turns the logits of one row over a block into e^(logit - peak); returns their sum.
inline float exponentiate_row(float* row, float* peak) {
    Floats best = load_floats(row);
    for (int64_t c = kWidth; c < kWordBlock; c += kWidth) {
        best = larger(best, load_floats(row + c));
    }
    *peak = largest_lane(best);
    const float largest = *peak;
    Floats sums[kRegisters] = {};
    for (int64_t c = 0; c < kWordBlock; c += kLanes) {
        for (int i = 0; i < kRegisters; ++i) {
            float* at = row + c + i * kWidth;
            const Floats power = exponential(load_floats(at) - largest);
            store_floats(at, power);
            sums[i] += power;
        }
    }
    float lanes[kLanes];
    memcpy(lanes, sums, sizeof(lanes));
    return tree_sum(lanes);
}

// Exponentials of a block of words for rows `first` and on; notes the logits of the targets.
void score_block(const HeadPlan& plan, int64_t block, int64_t first, int64_t count, float* packed) {
    const int64_t words = plan.words(block), hidden = plan.call.hidden;
    float* scores = plan.scores(block);
    pack_transposed(plan.call.weight + block * kWordBlock * hidden, hidden, words, hidden, packed,
                    hidden * kPanelCols);
    multiply({plan.states(), plan.width, 1}, plan.rows, hidden, packed,
             divide_up(words, kPanelCols), hidden * kPanelCols, scores, kWordBlock, false);
    for (int64_t r = 0; r < plan.rows; ++r) {
        float* row = scores + r * kWordBlock;
        const int64_t word = r < count ? plan.call.targets[first + r] - block * kWordBlock : -1;
        if (word >= 0 && word < words) {
            plan.call.losses[first + r] = row[word];
        }
        for (int64_t c = words; c < kWordBlock; ++c) {
            row[c] = -INFINITY;
        }
        plan.totals(block)[r] = exponentiate_row(row, &plan.peaks(block)[r]);
    }
}

// Joins the blocks' sums and writes the losses of rows `first` to `first + count - 1`.
void finish_losses(const HeadPlan& plan, int64_t first, int64_t count) {
    float* log_sums = plan.log_sums();
    for (int64_t r = 0; r < plan.rows; ++r) {
        float peak = -INFINITY;
        for (int64_t b = 0; b < plan.blocks; ++b) {
            peak = plan.peaks(b)[r] > peak ? plan.peaks(b)[r] : peak;
        }
        double total = 0.0;
        for (int64_t b = 0; b < plan.blocks; ++b) {
            total += static_cast<double>(plan.totals(b)[r]) * expf(plan.peaks(b)[r] - peak);
        }
        log_sums[r] = peak + static_cast<float>(log(total));
        if (r < count) {
            plan.call.losses[first + r] = log_sums[r] - plan.call.losses[first + r];
        }
    }
}

// Turns the exponentials of a block into grad_scale * (softmax - one at the target).
void gradient_block(const HeadPlan& plan, int64_t block, int64_t first, int64_t count) {
    for (int64_t r = 0; r < plan.rows; ++r) {
        float* row = plan.scores(block) + r * kWordBlock;
        const float factor =
            plan.call.grad_scale * expf(plan.peaks(block)[r] - plan.log_sums()[r]);
        for (int64_t c = 0; c < kWordBlock; c += kWidth) {
            store_floats(row + c, load_floats(row + c) * factor);
        }
        const int64_t word = r < count ? plan.call.targets[first + r] - block * kWordBlock : -1;
        if (word >= 0 && word < kWordBlock) {
            row[word] -= plan.call.grad_scale;
        }
    }
}

// Adds what a block of words gives to the gradients; `add` is false for the first chunk.
void spread_gradient(const HeadPlan& plan, int64_t block, float* sums, bool add_states, bool add,
                     float* scratch) {
    const MixtralHeadLoss& call = plan.call;
    const int64_t words = plan.words(block), width = plan.width;
    const int64_t panels = width / kPanelCols, at = block * kWordBlock * call.hidden;
    const float* grads = plan.scores(block);
    if (call.states_grad != nullptr) {
        pack_panels(call.weight + at, words, call.hidden, call.hidden, scratch,
                    kWordBlock * kPanelCols);
        multiply({grads, kWordBlock, 1}, plan.rows, words, scratch, panels,
                 kWordBlock * kPanelCols, sums, width, add_states);
    }
    if (call.weight_grad == nullptr) {
        return;
    }
    float* product = scratch + kWordBlock * width;
    multiply({grads, 1, kWordBlock}, kWordBlock, plan.rows, plan.state_panels(), panels,
             plan.rows * kPanelCols, product, width, false);
    for (int64_t word = 0; word < words; ++word) {
        float* to = call.weight_grad + at + word * call.hidden;
        const float* from = product + word * width;
        for (int64_t c = 0; c < call.hidden; ++c) {
            to[c] = add ? to[c] + from[c] : from[c];
        }
    }
}

void sum_parts(const HeadPlan& plan, int64_t row, float* out) {
    memset(out, 0, static_cast<size_t>(plan.call.hidden) * sizeof(float));
    for (int64_t part = 0; part < kHeadParts; ++part) {
        if (part * plan.blocks / kHeadParts == (part + 1) * plan.blocks / kHeadParts) {
            continue;  // fewer blocks than parts
        }
        const float* from = plan.sums(part) + row * plan.width;
        for (int64_t c = 0; c < plan.call.hidden; ++c) {
            out[c] += from[c];
        }
    }
}

void head_chunk(const HeadPlan& plan, int64_t first, int64_t count) {
    const MixtralHeadLoss& call = plan.call;
    copy_padded(call.states + first * call.hidden, count, call.hidden, call.hidden, 1.0f,
                plan.states(), plan.rows, plan.width);
    pack_panels(plan.states(), plan.rows, plan.width, plan.width, plan.state_panels(),
                plan.rows * kPanelCols);
    parallel_for(plan.blocks, 4, [&](int64_t from, int64_t to, int thread) {
        for (int64_t block = from; block < to; ++block) {
            score_block(plan, block, first, count, plan.of_thread(thread));
        }
    });
    finish_losses(plan, first, count);
    if (call.states_grad == nullptr && call.weight_grad == nullptr) {
        return;
    }
    parallel_for(kHeadParts, 1, [&](int64_t from, int64_t to, int thread) {
        for (int64_t part = from; part < to; ++part) {
            const int64_t begin = part * plan.blocks / kHeadParts;
            for (int64_t block = begin; block < (part + 1) * plan.blocks / kHeadParts; ++block) {
                gradient_block(plan, block, first, count);
                spread_gradient(plan, block, plan.sums(part), block > begin, first > 0,
                                plan.of_thread(thread));
            }
        }
    });
    if (call.states_grad != nullptr) {
        parallel_for(count, 32, [&](int64_t from, int64_t to, int) {
            for (int64_t r = from; r < to; ++r) {
                sum_parts(plan, r, call.states_grad + (first + r) * call.hidden);
            }
        });
    }
}

// Returns as abi.h says.
int64_t head_loss(const MixtralHeadLoss& call) {
    const HeadPlan plan(call);
    if (plan.floats() > call.workspace_floats) {
        return plan.floats();
    }
    for (int64_t first = 0; first < call.rows; first += plan.rows) {
        const int64_t left = call.rows - first;
        head_chunk(plan, first, left < plan.rows ? left : plan.rows);
    }
    return 0;
}

}  // namespace
