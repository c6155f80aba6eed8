// Attention over a flat batch: every token sees the whole of the prompt it continues, and its own
// sequence up to itself. Scores are never kept: the backward pass makes them again from each
// query's log-sum-exp (FlashAttention, arXiv 2205.14135).
//
// Heads are read as their product leaves them. One thread reads the keys and values of a prompt and
// key head, turns them and keeps them by, row after row, for the prompt and all its responses. A
// block is LANES rows of queries, each a token and one of the heads that share a key: a vector holds
// one coordinate of all of them.

#include "blocks.h"

namespace {

constexpr int64_t KEYS = 128;  // whose scores are held at once

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

// Calls visit(run) for all the keys that a block sees, KEYS at a time. All rows see the first one.
template <typename T, typename F>
inline void over_keys(const Block<T> &block, F visit) {
    const Sequence &s = block.sequence;
    const int64_t end = s.before() + block.tokens[block.count - 1] + 1 - s.first;
    for (int64_t k = 0; k < end; k += KEYS) visit(Run{k, std::min(KEYS, end - k)});
}

// The products of a block's queries with a run of keys, -infinity for what a row does not see.
template <typename T>
inline void score_keys(const Block<T> &block, const float *queries, const Run &run, float *scores) {
    const Family<T> &f = block.family;
    score(queries, f.h.width, f.keys + run.first * f.wide, f.wide, run.count, scores);
    // Rows are in the order of their tokens, so the first ones are those that do not see a key.
    const int64_t ahead = (run.first - block.sequence.before()) * f.groups - block.first;
    for (int64_t k = 0; k < run.count; ++k) {
        const int64_t blind = std::min(LANES, ahead + k * f.groups);
        std::fill(scores + k * LANES, scores + k * LANES + std::max<int64_t>(0, blind), -INFINITY);
    }
}

inline float scale_of(const Heads &h) { return 1.f / std::sqrt(static_cast<float>(h.width)); }

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

template <typename T>
void attend_block(const Block<T> &block, std::vector<Vector> &scratch, T *out, float *lse) {
    const Family<T> &f = block.family;
    const int64_t width = f.h.width, wide = f.wide;
    scratch.resize(3 * wide + KEYS + wide / LANES);
    float *panels = scratch[0].lanes, *queries = panels + LANES * wide;
    float *mixed = queries + LANES * wide, *scores = mixed + LANES * wide;
    float *row = scores + LANES * KEYS;
    read_queries(block, scale_of(f.h), row, panels);
    transpose(panels, wide, queries);
    std::memset(mixed, 0, wide * sizeof(Vector));
    Lanes highest = Lanes{} - INFINITY, total = {};
    over_keys(block, [&](const Run &run) {
        score_keys(block, queries, run, scores);
        weigh(scores, run.count, highest, total, mixed, width);
        mix(scores, f.values + run.first * wide, wide, run.count, width, mixed);
    });
    const Lanes share = 1.f / total;
    for (int64_t i = 0; i < width; ++i) store(mixed + i * LANES, load(mixed + i * LANES) * share);
    transpose(mixed, wide, panels);
    for (int64_t lane = 0; lane < block.count; ++lane) {
        write_row(panels, wide, 1.f, lane, row);
        copy(width, row, out + block.place(lane) * width);
        lse[block.place(lane)] = highest[lane] + std::log(total[lane]);
    }
}

// What the backward pass reads and writes beside its input.
template <typename T>
struct Backward {
    const T *out;
    const float *lse;
    const T *slopes;
    T *together;  // the gradient
};

// Adds a block's part to the gradients of keys and values, and writes those of its queries.
template <typename T>
void retrace_block(const Block<T> &block, std::vector<Vector> &scratch, const Backward<T> &b) {
    const Family<T> &f = block.family;
    const int64_t width = f.h.width, wide = f.wide;
    scratch.resize(5 * wide + 2 * KEYS + wide / LANES);
    float *query_panels = scratch[0].lanes, *slope_panels = query_panels + LANES * wide;
    float *queries = slope_panels + LANES * wide, *slopes = queries + LANES * wide;
    float *gradient = slopes + LANES * wide;
    float *weights = gradient + LANES * wide, *changes = weights + LANES * KEYS;
    float *row = changes + LANES * KEYS;
    read_rows(block, b.out, query_panels);
    read_rows(block, b.slopes, slope_panels);
    transpose(query_panels, wide, gradient);
    transpose(slope_panels, wide, slopes);
    Lanes shared = {};  // the mean of the changes, by the weights
    for (int64_t i = 0; i < width * LANES; i += LANES)
        shared += load(gradient + i) * load(slopes + i);
    read_queries(block, scale_of(f.h), row, query_panels);
    transpose(query_panels, wide, queries);
    std::memset(gradient, 0, wide * sizeof(Vector));
    Lanes lse = {};  // rows that are not there are zeros, which add nothing
    for (int64_t lane = 0; lane < block.count; ++lane) lse[lane] = b.lse[block.place(lane)];
    over_keys(block, [&](const Run &run) {
        const int64_t first = run.first * wide;
        score_keys(block, queries, run, weights);
        score(slopes, width, f.values + first, wide, run.count, changes);
        for (int64_t k = 0; k < run.count * LANES; k += LANES) {
            const Lanes weight = exponentials(load(weights + k) - lse);
            store(weights + k, weight);
            store(changes + k, weight * (load(changes + k) - shared));
        }
        gather(weights, slope_panels, wide, run.count, f.value_slopes + first, wide);
        gather(changes, query_panels, wide, run.count, f.key_slopes + first, wide);
        mix(changes, f.keys + first, wide, run.count, width, gradient);
    });
    transpose(gradient, wide, query_panels);
    for (int64_t lane = 0; lane < block.count; ++lane) {
        write_row(query_panels, wide, scale_of(f.h), lane, row);
        turn(f.h, block.tokens[lane], -1.f, row, b.together + block.query(lane));
    }
}

template <typename T>
void attend(const FlatAttention &a, const T *together, T *out, float *lse, int64_t threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Vector> room, scratch;
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < a.family_count * a.heads.kv_heads; ++item) {
            const Family<T> family(a, together, item, false, room);
            family.over_sequences([&](const Sequence &s) {
                family.read_keys(s);
                over_blocks(family, s, [&](const Block<T> &block) {
                    attend_block(block, scratch, out, lse);
                });
            });
        }
    }
}

// One thread adds up all that belongs to a prompt and key head, in one order.
template <typename T>
void retrace(const FlatAttention &a, const T *together, const Backward<T> &b, int64_t threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Vector> room, scratch;
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < a.family_count * a.heads.kv_heads; ++item) {
            const Family<T> family(a, together, item, true, room);
            family.over_sequences([&](const Sequence &s) {
                family.read_keys(s);
                family.clear_slopes(s);
                over_blocks(family, s, [&](const Block<T> &block) {
                    retrace_block(block, scratch, b);
                });
                if (s.before()) family.write_slopes(s, b.together);
            });
            family.write_slopes(family.prompt(), b.together);  // to which its responses have added
        }
    }
}

}  // namespace

extern "C" {

// Sets out [M, heads, width] and each row's log-sum-exp [M, heads], of heads together [M, ...].
// Then the gradient of `together`, whose every number belongs to some sequence.
#define ATTENTION(ending, T)                                                                       \
    void branch_attention_##ending(const FlatAttention *attention, const T *together, T *out,      \
                                   float *lse, int64_t threads) {                                  \
        attend(*attention, together, out, lse, threads);                                           \
    }                                                                                              \
    void branch_attention_gradient_##ending(const FlatAttention *attention, const T *together,     \
                                            const T *out, const float *lse, const T *slopes,       \
                                            T *gradient, int64_t threads) {                        \
        retrace(*attention, together, Backward<T>{out, lse, slopes, gradient}, threads);           \
    }
ATTENTION(float32, float)
ATTENTION(bfloat16, bfloat16)
}
