// Attention of one new token a row, over keys and values kept in blocks.

#pragma once

#include <algorithm>

#include "heads.h"

namespace {

constexpr int64_t COLUMNS = 32;  // of keys and values that lie together; decoding.py knows it too
constexpr int64_t WIDEST = 256;  // coordinates of a head
static_assert(COLUMNS == 2 * LANES, "a block's scores are kept in two vectors");

}  // namespace

// What is the same in all layers.
struct Attention {
    int64_t rows, heads, kv_heads, width, rotary;
    const float *cosines, *sines;  // [rows, rotary / 2]
    float epsilon;                 // of the norms of queries and keys
    const int64_t *slots, *prompts, *prompt_lengths;
    int64_t prompt_blocks, length;
};

// A layer's own: blocks of COLUMNS keys, coordinate by coordinate, and as many values, one by one.
struct Memory {
    const float *query_norm, *key_norm;  // null for none
    const void *prompts;                 // [N, kv_heads, blocks, 2, COLUMNS * width]
    void *const *chunks;                 // each [slots, kv_heads, 2, COLUMNS * width]
};

namespace {

// From `first` up to `end`, which is not in it.
struct Span {
    int64_t first, end;
};

template <typename T>
struct Block {
    const T *keys;
    int64_t count;  // columns that are there
};

// The newest token's own, before it is kept.
struct Newest {
    float key[WIDEST], value[WIDEST];
};

// What a thread needs beside its input.
template <typename T>
struct Scratch {
    std::vector<Block<T>> blocks;
    std::vector<float> scores;
    Newest newest;
};

// LANES numbers of each of two rows of a table, the first an even one. Two rows of bfloat16 lie number
// by number beside each other, so that a vector of words holds both.
struct Pair {
    Lanes first, second;
};
inline Pair load_pair(const float *table, int64_t row, int64_t column, int64_t width) {
    const float *from = table + row * width + column;
    return {load(from), load(from + width)};
}
inline Pair load_pair(const bfloat16 *table, int64_t row, int64_t column, int64_t width) {
    Words words;
    std::memcpy(&words, table + row * width + 2 * column, sizeof words);
    const Words first = words << 16, second = words & 0xffff0000u;
    Pair pair;
    std::memcpy(&pair.first, &first, sizeof first);
    std::memcpy(&pair.second, &second, sizeof second);
    return pair;
}

// Sets scores to a query's products with the keys of a block's first `Vectors` vectors.
template <int64_t Vectors, typename T>
inline void multiply(const float *query, const T *keys, int64_t width, float *scores) {
    Lanes sums[2][Vectors] = {};  // two of each, so that one need not wait for the other
    for (int64_t i = 0; i < width; i += 2)
        for (int64_t v = 0; v < Vectors; ++v) {
            const Pair pair = load_pair(keys, i, v * LANES, COLUMNS);
            sums[0][v] += query[i] * pair.first;
            sums[1][v] += query[i + 1] * pair.second;
        }
    for (int64_t v = 0; v < Vectors; ++v) store(scores + v * LANES, sums[0][v] + sums[1][v]);
}

// The same for a whole block; -infinity beyond its count.
template <typename T>
inline void score(const float *query, const Block<T> &block, int64_t width, float *scores) {
    if (block.count > LANES)
        multiply<2>(query, block.keys, width, scores);
    else
        multiply<1>(query, block.keys, width, scores);
    for (int64_t c = block.count; c < COLUMNS; ++c) scores[c] = -INFINITY;
}

// Makes scores into weights of a softmax, and returns what they are to be divided by.
inline float weigh(std::vector<float> &scores) {
    Lanes highest = load(scores.data()), total = {};
    for (size_t c = LANES; c < scores.size(); c += LANES) {
        const Lanes x = load(scores.data() + c);
        highest = x > highest ? x : highest;
    }
    const float most = fold(highest, [](auto x, auto y) { return x > y ? x : y; });
    for (size_t c = 0; c < scores.size(); c += LANES) {
        float *x = scores.data() + c;
#pragma omp simd
        for (int64_t lane = 0; lane < LANES; ++lane) x[lane] = exponential(x[lane] - most);
        total += load(x);
    }
    return sum(total);
}

// Adds to `Vectors` vectors of mixed coordinates, from `start` on, the values by their weights.
template <int64_t Vectors, typename T>
inline void mix(const std::vector<Block<T>> &blocks, const float *weights, int64_t start,
                int64_t width, float *mixed) {
    Lanes sums[4][Vectors] = {};  // four of each, so that none need wait for another
    for (const Block<T> &block : blocks) {
        const T *values = block.keys + COLUMNS * width;
        // Those that are not there yet are zeros, see keep().
        for (int64_t c = 0; c < block.count; c += 4)
            for (int64_t j = 0; j < 4; j += 2)
                for (int64_t v = 0; v < Vectors; ++v) {
                    const Pair pair = load_pair(values, c + j, start + v * LANES, width);
                    sums[j][v] += weights[c + j] * pair.first;
                    sums[j + 1][v] += weights[c + j + 1] * pair.second;
                }
        weights += COLUMNS;
    }
    for (int64_t v = 0; v < Vectors; ++v) {
        float *to = mixed + start + v * LANES;
        store(to, load(to) + ((sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v])));
    }
}

// A head's coordinates, normed and rotated, with zeros up to a whole number of vectors.
inline void read_head(const Attention &a, const float *from, int64_t row, const float *norm,
                      float *to) {
    const int64_t width = a.width, half = a.rotary / 2;
    for (int64_t i = width; i < padded(width); ++i) to[i] = 0;
    std::memcpy(to, from, width * sizeof(float));
    if (norm) {
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; ++i) squares += to[i] * to[i];
        const float scale = 1.f / std::sqrt(squares / width + a.epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) to[i] *= scale * norm[i];
    }
    rotate(half, a.cosines + row * half, a.sines + row * half, 1.f, to, to);
}

// Lists the blocks that a row's head sees.
template <typename T>
inline void list_blocks(const Attention &a, const Memory &memory, int64_t row, int64_t head,
                        std::vector<Block<T>> &blocks) {
    const int64_t size = 2 * COLUMNS * padded(a.width);
    const int64_t prompt = a.prompts[row], said = a.prompt_lengths[prompt], kept = a.length - 1;
    const int64_t place = (prompt * a.kv_heads + head) * a.prompt_blocks;
    const T *of_prompt = static_cast<const T *>(memory.prompts) + place * size;
    blocks.clear();
    for (int64_t c = 0; c < said; c += COLUMNS, of_prompt += size)
        blocks.push_back({of_prompt, std::min(COLUMNS, said - c)});
    for (int64_t c = 0; c < kept; c += COLUMNS) {
        const T *chunk = static_cast<const T *>(memory.chunks[c / COLUMNS]);
        blocks.push_back({chunk + (a.slots[row] * a.kv_heads + head) * size,
                          std::min(COLUMNS, kept - c)});
    }
}

// Sets a column of a table.
inline void set_column(float *table, int64_t column, int64_t width, int64_t count, const float *x) {
    for (int64_t i = 0; i < count; ++i) table[i * width + column] = x[i];
}
inline void set_column(bfloat16 *table, int64_t column, int64_t width, int64_t count,
                       const float *x) {
    bfloat16 rounded[WIDEST];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) write(rounded[i], x[i]);
    for (int64_t i = 0; i < count; i += 2)
        std::memcpy(table + i * width + 2 * column, rounded + i, 2 * sizeof(bfloat16));
}

// Sets a row of a table, and those after it to zeros, as mix() reads four at a time.
inline void set_row(float *table, int64_t row, int64_t width, const float *x) {
    if (row % 4 == 0) std::memset(table + row * width, 0, 4 * width * sizeof(float));
    std::memcpy(table + row * width, x, width * sizeof(float));
}
inline void set_row(bfloat16 *table, int64_t row, int64_t width, const float *x) {
    bfloat16 rounded[WIDEST], *pairs = table + row / 2 * 2 * width;
    if (row % 4 == 0) std::memset(pairs, 0, 4 * width * sizeof(bfloat16));
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) write(rounded[i], x[i]);
    for (int64_t i = 0; i < width; ++i) pairs[2 * i + row % 2] = rounded[i];
}

// Keeps the newest key and value in a row's own last block. They are not read from there in the same
// step: what was written to so many lines of the cache would have to be waited for.
template <typename T>
inline void keep(const Attention &a, const Memory &memory, int64_t row, int64_t head,
                 const Newest &newest) {
    const int64_t kept = a.length - 1, column = kept % COLUMNS, width = padded(a.width);
    T *keys = static_cast<T *>(memory.chunks[kept / COLUMNS]) +
              (a.slots[row] * a.kv_heads + head) * 2 * COLUMNS * width;
    set_column(keys, column, COLUMNS, width, newest.key);
    set_row(keys + COLUMNS * width, column, width, newest.value);
}

// Mixes what one query head sees.
template <typename T>
inline void attend_head(const Attention &a, const float *query, Scratch<T> &scratch, float *mixed) {
    const int64_t width = padded(a.width), columns = scratch.blocks.size() * COLUMNS;
    float *scores = scratch.scores.data();
    for (const Block<T> &block : scratch.blocks) {
        score(query, block, width, scores);
        scores += COLUMNS;
    }
    Lanes own = {};
    for (int64_t i = 0; i < width; i += LANES) own += load(query + i) * load(scratch.newest.key + i);
    std::fill(scores, scores + LANES, -INFINITY);
    scores[0] = sum(own);
    const float share = 1.f / weigh(scratch.scores), weight = scratch.scores[columns];
    for (int64_t i = 0; i < width; i += LANES)
        store(mixed + i, weight * load(scratch.newest.value + i));
    int64_t start = 0;
    for (; start + 2 * LANES <= width; start += 2 * LANES)
        mix<2>(scratch.blocks, scratch.scores.data(), start, width, mixed);
    if (start < width) mix<1>(scratch.blocks, scratch.scores.data(), start, width, mixed);
    for (int64_t i = 0; i < width; i += LANES) store(mixed + i, load(mixed + i) * share);
}

// Mixes what a row sees of one key head, all query heads that share it.
template <typename T>
inline void attend_row(const Attention &a, const Memory &memory, const float *qkv, int64_t row,
                       int64_t head, Scratch<T> &scratch, T *out) {
    const int64_t groups = a.heads / a.kv_heads, width = a.width;
    const float scale = 1.f / std::sqrt(static_cast<float>(width));
    float query[WIDEST], mixed[WIDEST], *value = scratch.newest.value;
    list_blocks(a, memory, row, head, scratch.blocks);
    scratch.scores.resize(scratch.blocks.size() * COLUMNS + LANES);
    read_head(a, qkv + (a.heads + head) * width, row, memory.key_norm, scratch.newest.key);
    std::memcpy(value, qkv + (a.heads + a.kv_heads + head) * width, width * sizeof(float));
    std::fill(value + width, value + padded(width), 0.f);
    for (int64_t group = head * groups; group < (head + 1) * groups; ++group) {
        read_head(a, qkv + group * width, row, memory.query_norm, query);
        for (int64_t i = 0; i < padded(width); i += LANES) store(query + i, load(query + i) * scale);
        attend_head(a, query, scratch, mixed);
        for (int64_t i = 0; i < width; ++i) write(out[group * width + i], mixed[i]);
    }
    keep<T>(a, memory, row, head, scratch.newest);
}

// Mixes for some rows: qkv [all rows, stride] to out [all rows, out_stride]. Rows of a prompt, which
// are neighbours, read its keys and values one after the other, head by head.
template <typename T>
void attend(const Attention &a, const Memory &memory, Span rows, const float *qkv, int64_t stride,
            T *out, int64_t out_stride, Scratch<T> &scratch) {
    int64_t first = rows.first;
    while (first < rows.end) {
        int64_t end = first + 1;
        while (end < rows.end && a.prompts[end] == a.prompts[first]) ++end;
        for (int64_t head = 0; head < a.kv_heads; ++head)
            for (int64_t row = first; row < end; ++row)
                attend_row(a, memory, qkv + row * stride, row, head, scratch, out + row * out_stride);
        first = end;
    }
}

}  // namespace
