// See quantize.h.
#include "quantize.h"

#include <math.h>
#include <string.h>

#include "low_bit.h"

namespace {

constexpr int kLowest = -192, kHighest = 191;
constexpr int kBuckets = kHighest - kLowest + 1;
constexpr int kSubgroups = kGroup / kSubgroup;

// SCALE_FACTORS in ../../formats.py.
constexpr float kFactors4[] = {0.92f, 0.98f, 1.04f, 1.1f, 1.16f, 1.24f};
constexpr float kFactors3[] = {0.98f, -1.02f, 0.88f, -0.9f, 1.1f, -1.14f};
constexpr float kFactors8[] = {1.0f, 1.005f, 1.01f};

struct BucketTable {
    uint64_t errors[kBuckets];     // squared error on grid s in bits 16 s to 16 s + 15
    uint8_t codes[4][kBuckets];
    uint8_t zero_code;             // of grid 0
};

template <int kSize>
BucketTable make_table(const int8_t (&grids)[4][kSize]) {
    BucketTable table = {};
    for (int i = 0; i < kBuckets; ++i) {
        for (int s = 0; s < 4; ++s) {
            int best = 1 << 30;
            for (int code = 0; code < kSize; ++code) {
                const int distance = i + kLowest - grids[s][code];
                if (distance * distance < best) {
                    best = distance * distance;
                    table.codes[s][i] = static_cast<uint8_t>(code);
                }
            }
            table.errors[i] |= static_cast<uint64_t>(best) << (16 * s);
        }
    }
    int least = 1 << 30;
    for (int code = 0; code < kSize; ++code) {
        const int size = grids[0][code] < 0 ? -grids[0][code] : grids[0][code];
        if (size < least) {
            least = size;
            table.zero_code = static_cast<uint8_t>(code);
        }
    }
    return table;
}

float from_bf16(uint16_t bits) { return from_bf16_bits(bits); }

// One row of one group, quantised.
struct RowGroup {
    uint16_t scale;
    uint16_t extra;
    uint8_t codes[kGroup];
};

struct Candidate {
    double cost;
    uint16_t scale;
    uint16_t selectors;
};

// Rounds half to even without a call: |value| stays far below 2^22 after the clamp, which also gives
// a NaN a place in the table.
inline int bucket_of(float value) {
    value = value > kLowest ? value : static_cast<float>(kLowest);
    value = value > kHighest ? static_cast<float>(kHighest) : value;
    return static_cast<int>((value + 12582912.0f) - 12582912.0f) - kLowest;
}

void find_buckets(const float* w, float scale, int* buckets) {
    const float inverse = 1.0f / scale;
    for (int k = 0; k < kGroup; ++k) {
        buckets[k] = bucket_of(w[k] * inverse);
    }
}

bool is_usable(uint16_t scale) {
    const float value = from_bf16(scale);
    return value != 0.0f && isfinite(1.0f / value);
}

Candidate judge(const float* w, uint16_t scale, const BucketTable& table) {
    int buckets[kGroup];
    const float value = from_bf16(scale);
    find_buckets(w, value, buckets);
    int64_t total = 0;
    Candidate candidate = {0.0, scale, 0};
    for (int sub = 0; sub < kSubgroups; ++sub) {
        // A bucket's error is below 2^16 / 16 except far outside the grid, where sums are split.
        uint64_t even = 0, odd = 0;
        for (int k = 0; k < kSubgroup; ++k) {
            const uint64_t errors = table.errors[buckets[sub * kSubgroup + k]];
            even += errors & 0x0000ffff0000ffffu;
            odd += errors >> 16 & 0x0000ffff0000ffffu;
        }
        const uint64_t sums[4] = {even & 0xffffffffu, odd & 0xffffffffu, even >> 32, odd >> 32};
        int best = 0;
        for (int s = 1; s < 4; ++s) {
            best = sums[s] < sums[best] ? s : best;
        }
        total += static_cast<int64_t>(sums[best]);
        candidate.selectors |= static_cast<uint16_t>(best << (2 * sub));
    }
    candidate.cost =
        static_cast<double>(total) * (static_cast<double>(value) * static_cast<double>(value));
    return candidate;
}

template <int kSize>
void choose_codes(const float* w, const Candidate& best, const BucketTable& table,
                  const int8_t (&grids)[4][kSize], uint8_t* codes, int* values) {
    int buckets[kGroup];
    find_buckets(w, from_bf16(best.scale), buckets);
    for (int k = 0; k < kGroup; ++k) {
        const int selector = best.selectors >> (2 * (k / kSubgroup)) & 3;
        codes[k] = table.codes[selector][buckets[k]];
        values[k] = grids[selector][codes[k]];
    }
}

template <int kSize, int kNumFactors>
void quantize_on_grids(const float* w, const BucketTable& table, const int8_t (&grids)[4][kSize],
                       const float (&factors)[kNumFactors], RowGroup* out) {
    float largest = 0.0f;
    for (int k = 0; k < kGroup; ++k) {
        const float size = fabsf(w[k]);
        largest = size > largest ? size : largest;
    }
    Candidate best = {INFINITY, 0, 0};
    bool is_found = false;
    for (int i = 0; i < kNumFactors && largest > 0.0f; ++i) {
        const uint16_t scale = to_bf16_bits(largest * factors[i] / 127.0f);
        if (!is_usable(scale)) {
            continue;
        }
        const Candidate candidate = judge(w, scale, table);
        if (candidate.cost < best.cost) {
            best = candidate;
            is_found = true;
        }
    }
    if (!is_found) {
        out->scale = 0;
        out->extra = 0;
        memset(out->codes, table.zero_code, kGroup);
        return;
    }
    int values[kGroup];
    for (int round = 0; round < 2; ++round) {
        choose_codes(w, best, table, grids, out->codes, values);
        double products = 0.0;
        int64_t squares = 0;
        for (int k = 0; k < kGroup; ++k) {
            products += static_cast<double>(w[k]) * static_cast<double>(values[k]);
            squares += int64_t{values[k]} * values[k];
        }
        const uint16_t scale =
            squares == 0 ? 0
                         : to_bf16_bits(static_cast<float>(products / static_cast<double>(squares)));
        if (!is_usable(scale)) {
            break;
        }
        const Candidate candidate = judge(w, scale, table);
        if (candidate.cost < best.cost) {
            best = candidate;
        }
    }
    choose_codes(w, best, table, grids, out->codes, values);
    out->scale = best.scale;
    out->extra = best.selectors;
}

int rounded_code(float value) {
    value = value > -128.0f ? value : -128.0f;
    value = value > 127.0f ? 127.0f : value;
    return static_cast<int>((value + 12582912.0f) - 12582912.0f);
}

void quantize_affine(const float* w, RowGroup* out) {
    float low = w[0], high = w[0];
    for (int k = 1; k < kGroup; ++k) {
        low = w[k] < low ? w[k] : low;
        high = w[k] > high ? w[k] : high;
    }
    out->scale = 0;
    out->extra = to_bf16_bits(low);
    memset(out->codes, 128, kGroup);
    double least = INFINITY;
    for (const float factor : kFactors8) {
        const uint16_t scale_bits = to_bf16_bits((high - low) / 255.0f * factor);
        const float scale = from_bf16(scale_bits);
        if (high == low || scale == 0.0f) {
            continue;
        }
        const uint16_t offset_bits = to_bf16_bits((high + low) * 0.5f + scale * 0.5f);
        const float offset = from_bf16(offset_bits);
        uint8_t codes[kGroup];
        double cost = 0.0;
        for (int k = 0; k < kGroup; ++k) {
            const int code = rounded_code((w[k] - offset) / scale);
            const double error = static_cast<double>(w[k]) -
                                 (static_cast<double>(scale) * code + static_cast<double>(offset));
            codes[k] = static_cast<uint8_t>(code + 128);
            cost += error * error;
        }
        if (cost < least) {
            least = cost;
            out->scale = scale_bits;
            out->extra = offset_bits;
            memcpy(out->codes, codes, kGroup);
        }
    }
}

void pack_row(const RowGroup& row, int bits, int64_t r, uint8_t* group) {
    const uint32_t header = static_cast<uint32_t>(row.scale) << 16 | row.extra;
    memcpy(group + 4 * r, &header, sizeof(header));
    uint8_t* codes = group + kHeaderBytes;
    const int64_t half = r / 16, lane = 4 * (r % 16);
    for (int64_t k = 0; k < kGroup; ++k) {
        const uint8_t code = row.codes[k];
        if (bits == kInt8) {
            codes[(k / 4 * 2 + half) * kLineBytes + lane + k % 4] = code;
        } else if (bits == kInt4) {
            uint8_t* byte = codes + (k / 8 * 2 + half) * kLineBytes + lane + k % 4;
            *byte = static_cast<uint8_t>(k / 4 % 2 ? *byte | code << 4 : *byte | code);
        } else {
            uint8_t* block = codes + k / 16 * 192;
            const int64_t i = k / 4 % 4, bit = lane + k % 4;
            uint8_t* low = block + half * kLineBytes + bit;
            uint8_t* high = block + 128 + half * 32 + 8 * i + bit / 8;
            *low = static_cast<uint8_t>(*low | (code & 3) << (2 * i));
            *high = static_cast<uint8_t>(*high | (code >> 2) << (bit % 8));
        }
    }
}

}  // namespace

void quantize_panels(int bits, const float* w, int64_t rows, int64_t cols, uint8_t* packed,
                     int64_t first, int64_t last) {
    const BucketTable table = bits == kInt3 ? make_table(kGrids3) : make_table(kGrids4);
    const int64_t groups = divide_up(cols, kGroup);
    uint8_t* group = packed + first * panel_bytes(bits, cols);
    for (int64_t panel = first; panel < last; ++panel) {
        for (int64_t g = 0; g < groups; ++g, group += group_bytes(bits)) {
            memset(group, 0, static_cast<size_t>(group_bytes(bits)));
            for (int64_t r = 0; r < kPanel; ++r) {
                float values[kGroup] = {};
                const int64_t row = panel * kPanel + r;
                if (row < rows) {
                    const int64_t count = cols - g * kGroup < kGroup ? cols - g * kGroup : kGroup;
                    memcpy(values, w + row * cols + g * kGroup,
                           static_cast<size_t>(count) * sizeof(float));
                }
                RowGroup out;
                if (bits == kInt8) {
                    quantize_affine(values, &out);
                } else if (bits == kInt4) {
                    quantize_on_grids(values, table, kGrids4, kFactors4, &out);
                } else {
                    quantize_on_grids(values, table, kGrids3, kFactors3, &out);
                }
                pack_row(out, bits, r, group);
            }
        }
    }
}
