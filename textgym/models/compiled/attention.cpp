// Attention over a flat batch: every token sees the whole of the prompt it continues, and its own
// sequence up to itself. Scores are never kept: the backward pass makes them again from each
// query's log-sum-exp (FlashAttention, arXiv 2205.14135).
//
// A block is LANES rows, each a token and one of the heads that share a key: a vector holds one
// coordinate of all of them. Keys and values are then read where they lie, number by number.

#include <algorithm>

#include "common.h"

struct FlatAttention {
    int64_t heads, kv_heads, width;
    int64_t query_stride, key_stride, value_stride;  // numbers from one token to the next
    const float *queries, *keys, *values;
    int64_t sequence_count, family_count;
    const int64_t *sequences;  // [sequence_count, 4], see Sequence
    const int64_t *families;   // [family_count + 1]: a prompt's sequences, which are neighbours
};

namespace {

constexpr int64_t KEYS = 128;  // whose scores are held at once

struct Sequence {
    int64_t first, end;                // its tokens in the flat batch
    int64_t prompt_first, prompt_end;  // those of the prompt it continues; none for a prompt itself
};

// Keys that lie one after the other.
struct Run {
    int64_t first, count;
};

// Three products. A function of its own has the registers that its loop needs.

// Sets scores [count, LANES] to those of a block's columns with `count` rows of numbers.
[[gnu::noinline]] void score(const float *columns, int64_t width, const float *rows, int64_t stride,
                             int64_t count, float *scores) {
    std::memset(scores, 0, count * sizeof(Vector));
    in_tiles(count, [=](int64_t j, auto indices) {
        float *to = scores + j * LANES;
        add_products(columns, width, rows + j * stride, 1, stride, to, LANES, indices);
    });
}

// Adds to a block's columns `count` rows of numbers by their weights [count, LANES].
[[gnu::noinline]] void mix(const float *weights, const float *rows, int64_t stride, int64_t count,
                           int64_t width, float *columns) {
    in_tiles(width, [=](int64_t j, auto indices) {
        add_products(weights, count, rows + j, stride, 1, columns + j * LANES, LANES, indices);
    });
}

// Adds to `count` rows of numbers a block's panels by weights [count, LANES].
[[gnu::noinline]] void gather(const float *weights, const float *panels, int64_t wide,
                              int64_t count, float *rows, int64_t stride) {
    for (int64_t i = 0; i < wide; i += LANES)
        in_tiles(count, [=](int64_t j, auto indices) {
            add_products(panels + i * LANES, LANES, weights + j * LANES, 1, LANES,
                         rows + j * stride + i, stride, indices);
        });
}

// LANES rows of a sequence and key head, fewer at its end. Their numbers are held in two ways, both
// with zeros up to whole vectors: as columns [wide, LANES], the rows in the lanes of a vector; and
// as panels [wide / LANES, LANES, LANES], coordinates in its lanes.
struct Block {
    const FlatAttention &a;
    Sequence sequence;
    int64_t head, groups, first, count;
    int64_t tokens[LANES], places[LANES];  // places in [M, heads]

    const float *query(int64_t lane) const {
        const int64_t within = places[lane] - tokens[lane] * a.heads;
        return a.queries + tokens[lane] * a.query_stride + within * a.width;
    }
    const float *key(int64_t token) const { return a.keys + token * a.key_stride + head * a.width; }
    const float *value(int64_t token) const {
        return a.values + token * a.value_stride + head * a.width;
    }
};

// Calls visit(run) for all the keys that a block sees, KEYS at a time. All rows see the first one.
template <typename F>
inline void over_keys(const Block &block, F visit) {
    const Sequence &s = block.sequence;
    for (int64_t k = s.prompt_first; k < s.prompt_end; k += KEYS)
        visit(Run{k, std::min(KEYS, s.prompt_end - k)});
    const int64_t end = block.tokens[block.count - 1] + 1;
    for (int64_t k = s.first; k < end; k += KEYS) visit(Run{k, std::min(KEYS, end - k)});
}

// Calls visit(block) for all rows of a sequence and key head.
template <typename F>
inline void over_blocks(const FlatAttention &a, int64_t sequence, int64_t head, F visit) {
    Sequence s;
    std::memcpy(&s, a.sequences + 4 * sequence, sizeof s);
    const int64_t groups = a.heads / a.kv_heads, rows = (s.end - s.first) * groups;
    int64_t token = s.first, group = 0;
    for (int64_t row = 0; row < rows; row += LANES) {
        Block block{a, s, head, groups, row, std::min(LANES, rows - row), {}, {}};
        for (int64_t lane = 0; lane < block.count; ++lane) {
            block.tokens[lane] = token;
            block.places[lane] = token * a.heads + head * groups + group;
            if (++group == groups) group = 0, ++token;
        }
        visit(block);
    }
}

// The products of a block's queries with a run of keys, -infinity for what a row does not see.
inline void score_keys(const Block &block, const float *queries, const Run &run, float *scores) {
    score(queries, block.a.width, block.key(run.first), block.a.key_stride, run.count, scores);
    // Rows are in the order of their tokens, so the first ones are those that do not see a key; a
    // prompt lies before its responses, so that all see it.
    const int64_t ahead = (run.first - block.sequence.first) * block.groups - block.first;
    for (int64_t k = 0; k < run.count; ++k) {
        const int64_t blind = std::min(LANES, ahead + k * block.groups);
        std::fill(scores + k * LANES, scores + k * LANES + std::max<int64_t>(0, blind), -INFINITY);
    }
}

// Copies a block's rows, times a scale, to panels.
template <typename F>
inline void read_rows(const Block &block, F from, float scale, float *panels) {
    const int64_t width = block.a.width;
    std::memset(panels, 0, padded(width) * sizeof(Vector));
    for (int64_t lane = 0; lane < block.count; ++lane) {
        const float *row = from(lane);
        float *to = panels + lane * LANES;
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) store(to + i * LANES, load(row + i) * scale);
        for (int64_t j = 0; i + j < width; ++j) to[i * LANES + j] = row[i + j] * scale;
    }
}

// Writes panels to where a block's rows lie.
inline void write_rows(const Block &block, const float *panels, float *to) {
    const int64_t width = block.a.width;
    for (int64_t lane = 0; lane < block.count; ++lane) {
        const float *from = panels + lane * LANES;
        float *row = to + block.places[lane] * width;
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) store(row + i, load(from + i * LANES));
        for (int64_t j = 0; i + j < width; ++j) row[i + j] = from[i * LANES + j];
    }
}

inline float scale_of(const FlatAttention &a) {
    return 1.f / std::sqrt(static_cast<float>(a.width));
}

inline Lanes larger(Lanes x, Lanes y) { return x > y ? x : y; }

inline Lanes exponentials(Lanes x) {
    float each[LANES];
    store(each, x);
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; ++lane) each[lane] = exponential(each[lane]);
    return load(each);
}

// Makes a run's scores into weights relative to the highest so far, and rescales what came before.
inline void weigh(float *scores, int64_t count, Lanes &highest, Lanes &total, float *columns,
                  int64_t width) {
    const Lanes before = highest;
    for (int64_t k = 0; k < count; ++k) highest = larger(highest, load(scores + k * LANES));
    const Lanes kept = exponentials(before - highest);
    total *= kept;
    for (int64_t i = 0; i < width * LANES; i += LANES) store(columns + i, load(columns + i) * kept);
    for (int64_t k = 0; k < count; ++k) {
        const Lanes weights = exponentials(load(scores + k * LANES) - highest);
        total += weights;
        store(scores + k * LANES, weights);
    }
}

void attend_block(const Block &block, std::vector<Vector> &scratch, float *out, float *lse) {
    const int64_t width = block.a.width, wide = padded(width);
    scratch.resize(3 * wide + KEYS);
    float *panels = scratch[0].lanes, *queries = panels + LANES * wide;
    float *mixed = queries + LANES * wide, *scores = mixed + LANES * wide;
    read_rows(block, [&](int64_t lane) { return block.query(lane); }, scale_of(block.a), panels);
    transpose(panels, wide, queries);
    std::memset(mixed, 0, wide * sizeof(Vector));
    Lanes highest = Lanes{} - INFINITY, total = {};
    over_keys(block, [&](const Run &run) {
        score_keys(block, queries, run, scores);
        weigh(scores, run.count, highest, total, mixed, width);
        mix(scores, block.value(run.first), block.a.value_stride, run.count, width, mixed);
    });
    const Lanes share = 1.f / total;
    for (int64_t i = 0; i < width; ++i) store(mixed + i * LANES, load(mixed + i * LANES) * share);
    transpose(mixed, wide, panels);
    write_rows(block, panels, out);
    for (int64_t lane = 0; lane < block.count; ++lane)
        lse[block.places[lane]] = highest[lane] + std::log(total[lane]);
}

// What the backward pass reads and writes beside its input.
struct Backward {
    const float *out, *lse, *slopes;
    float *queries, *keys, *values;  // gradients; keys and values in whole vectors
};

// Adds a block's part to the gradients of keys and values, and writes those of its queries.
void retrace_block(const Block &block, std::vector<Vector> &scratch, const Backward &b) {
    const FlatAttention &a = block.a;
    const int64_t width = a.width, wide = padded(width), stride = a.kv_heads * wide;
    scratch.resize(5 * wide + 2 * KEYS);
    float *query_panels = scratch[0].lanes, *slope_panels = query_panels + LANES * wide;
    float *queries = slope_panels + LANES * wide, *slopes = queries + LANES * wide;
    float *gradient = slopes + LANES * wide;
    float *weights = gradient + LANES * wide, *changes = weights + LANES * KEYS;
    const auto out = [&](int64_t lane) { return b.out + block.places[lane] * width; };
    const auto slope = [&](int64_t lane) { return b.slopes + block.places[lane] * width; };
    read_rows(block, out, 1.f, query_panels);
    read_rows(block, slope, 1.f, slope_panels);
    transpose(query_panels, wide, gradient);
    transpose(slope_panels, wide, slopes);
    Lanes shared = {};  // the mean of the changes, by the weights
    for (int64_t i = 0; i < width * LANES; i += LANES)
        shared += load(gradient + i) * load(slopes + i);
    read_rows(block, [&](int64_t lane) { return block.query(lane); }, scale_of(a), query_panels);
    transpose(query_panels, wide, queries);
    std::memset(gradient, 0, wide * sizeof(Vector));
    Lanes lse = {};  // rows that are not there are zeros, which add nothing
    for (int64_t lane = 0; lane < block.count; ++lane) lse[lane] = b.lse[block.places[lane]];
    over_keys(block, [&](const Run &run) {
        score_keys(block, queries, run, weights);
        score(slopes, width, block.value(run.first), a.value_stride, run.count, changes);
        for (int64_t k = 0; k < run.count * LANES; k += LANES) {
            const Lanes weight = exponentials(load(weights + k) - lse);
            store(weights + k, weight);
            store(changes + k, weight * (load(changes + k) - shared));
        }
        const int64_t first = run.first * stride + block.head * wide;
        gather(weights, slope_panels, wide, run.count, b.values + first, stride);
        gather(changes, query_panels, wide, run.count, b.keys + first, stride);
        mix(changes, block.key(run.first), a.key_stride, run.count, width, gradient);
    });
    for (int64_t i = 0; i < width * LANES; i += LANES)
        store(gradient + i, load(gradient + i) * scale_of(a));
    transpose(gradient, wide, query_panels);
    write_rows(block, query_panels, b.queries);
}
}  // namespace

extern "C" {

// Sets out [M, heads, width] and each row's log-sum-exp [M, heads].
void branch_attention_float32(const FlatAttention *attention, float *out, float *lse,
                              int64_t threads) {
    const FlatAttention &a = *attention;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Vector> scratch;
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < a.sequence_count * a.kv_heads; ++item)
            over_blocks(a, item / a.kv_heads, item % a.kv_heads, [&](const Block &block) {
                attend_block(block, scratch, out, lse);
            });
    }
}

// Sets the gradients of queries [M, heads, width], keys and values [M, kv_heads, padded(width)].
// One thread adds up all that belongs to a prompt and key head, in one order.
void branch_attention_gradient_float32(const FlatAttention *attention, const float *out,
                                       const float *lse, const float *slopes, float *queries,
                                       float *keys, float *values, int64_t threads) {
    const FlatAttention &a = *attention;
    const Backward backward{out, lse, slopes, queries, keys, values};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Vector> scratch;
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < a.family_count * a.kv_heads; ++item) {
            const int64_t family = item / a.kv_heads, head = item % a.kv_heads;
            const int64_t wide = padded(a.width);
            for (int64_t s = a.families[family]; s < a.families[family + 1]; ++s) {
                for (int64_t t = a.sequences[4 * s]; t < a.sequences[4 * s + 1]; ++t) {
                    const int64_t place = (t * a.kv_heads + head) * wide;
                    std::memset(keys + place, 0, wide * sizeof(float));
                    std::memset(values + place, 0, wide * sizeof(float));
                }
            }
            for (int64_t s = a.families[family]; s < a.families[family + 1]; ++s)
                over_blocks(a, s, head, [&](const Block &block) {
                    retrace_block(block, scratch, backward);
                });
        }
    }
}
}
