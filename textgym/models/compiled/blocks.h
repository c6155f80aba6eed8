// Where attention over a flat batch finds what it works on: sequences, and rows of their queries.

#pragma once

#include <algorithm>

#include "heads.h"

struct FlatAttention {
    Heads heads;
    int64_t family_count;
    const int64_t *sequences;  // [sequences, 4], see Sequence
    const int64_t *families;   // [family_count + 1]: a prompt's sequences, itself the first
};

namespace {

struct Sequence {
    int64_t first, end;                // its tokens in the flat batch
    int64_t prompt_first, prompt_end;  // those of the prompt it continues; none for a prompt itself

    int64_t count() const { return end - first; }
    int64_t before() const { return prompt_end - prompt_first; }
};

// What one thread works on: a prompt and its responses, as one key head sees them. Keys and values
// of the prompt are followed by those of one response at a time, a row of `wide` numbers each, of
// which a head's width counts; their gradients, which are added up, lie likewise.
template <typename T>
struct Family {
    const FlatAttention &a;
    const Heads &h = a.heads;
    const T *together;  // [tokens, h.numbers()]
    const int64_t index, head, groups = h.heads / h.kv_heads, wide = padded(h.width);
    float *keys, *values, *key_slopes, *value_slopes;

    // Item by item of family_count * kv_heads; `slopes` says whether there is room for gradients.
    Family(const FlatAttention &a, const T *together, int64_t item, bool slopes,
           std::vector<Vector> &room)
        : a(a), together(together), index(item / a.heads.kv_heads), head(item % a.heads.kv_heads) {
        int64_t longest = 0;
        over_sequences([&](const Sequence &s) {
            longest = std::max(longest, s.before() + s.count());
        });
        const int64_t table = longest * wide;
        room.resize((slopes ? 4 : 2) * table / LANES);
        keys = room.data()->lanes;
        values = keys + table, key_slopes = values + table, value_slopes = key_slopes + table;
    }

    template <typename F>
    void over_sequences(F visit) const {
        for (int64_t i = a.families[index]; i < a.families[index + 1]; ++i) visit(sequence(i));
    }
    Sequence sequence(int64_t i) const {
        Sequence s;
        std::memcpy(&s, a.sequences + 4 * i, sizeof s);
        return s;
    }
    Sequence prompt() const { return sequence(a.families[index]); }

    // Where a token's query, key or value begins in what lies like `together`.
    int64_t query(int64_t token, int64_t group) const {
        return token * h.numbers() + (head * groups + group) * h.width;
    }
    int64_t key(int64_t token) const {
        return token * h.numbers() + (h.heads + head) * h.width;
    }
    int64_t value(int64_t token) const { return key(token) + h.kv_heads * h.width; }

    // Puts a sequence's keys and values after those of its prompt.
    void read_keys(const Sequence &s) const {
        for (int64_t i = 0; i < s.count(); ++i) {
            const int64_t token = s.first + i, row = (s.before() + i) * wide;
            turn(h, token, 1.f, together + key(token), keys + row);
            copy(h.width, together + value(token), values + row);
        }
    }
    void clear_slopes(const Sequence &s) const {
        for (float *slopes : {key_slopes, value_slopes})
            std::memset(slopes + s.before() * wide, 0, s.count() * wide * sizeof(float));
    }
    void write_slopes(const Sequence &s, T *to) const {
        for (int64_t i = 0; i < s.count(); ++i) {
            const int64_t token = s.first + i, row = (s.before() + i) * wide;
            turn(h, token, -1.f, key_slopes + row, to + key(token));
            copy(h.width, value_slopes + row, to + value(token));
        }
    }
};

// LANES rows of a sequence, fewer at its end. Their numbers are held in two ways, both with zeros
// up to whole vectors: as columns [wide, LANES], the rows in the lanes of a vector; and as panels
// [wide / LANES, LANES, LANES], coordinates in its lanes.
template <typename T>
struct Block {
    const Family<T> &family;
    const Sequence &sequence;
    int64_t first, count;
    int64_t tokens[LANES], groups[LANES];

    int64_t place(int64_t lane) const {  // in [tokens, heads]
        const Family<T> &f = family;
        return tokens[lane] * f.h.heads + f.head * f.groups + groups[lane];
    }
    int64_t query(int64_t lane) const { return family.query(tokens[lane], groups[lane]); }
};

// Calls visit(block) for all rows of a sequence.
template <typename T, typename F>
inline void over_blocks(const Family<T> &family, const Sequence &s, F visit) {
    const int64_t rows = s.count() * family.groups;
    int64_t token = s.first, group = 0;
    for (int64_t row = 0; row < rows; row += LANES) {
        Block<T> block{family, s, row, std::min(LANES, rows - row), {}, {}};
        for (int64_t lane = 0; lane < block.count; ++lane) {
            block.tokens[lane] = token;
            block.groups[lane] = group;
            if (++group == family.groups) group = 0, ++token;
        }
        visit(block);
    }
}

// Puts a row of `width` numbers, times a scale, into its lane of panels.
template <typename T>
inline void read_row(const T *row, int64_t width, float scale, int64_t lane, float *panels) {
    float *to = panels + lane * LANES;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) store(to + i * LANES, load(row + i) * scale);
    for (int64_t j = 0; i + j < width; ++j) to[i * LANES + j] = read(row[i + j]) * scale;
}

// Sets panels to a block's rows in what lies like the output, [tokens, heads, width].
template <typename T>
inline void read_rows(const Block<T> &block, const T *from, float *panels) {
    const int64_t width = block.family.h.width;
    std::memset(panels, 0, padded(width) * sizeof(Vector));
    for (int64_t lane = 0; lane < block.count; ++lane)
        read_row(from + block.place(lane) * width, width, 1.f, lane, panels);
}

// Sets panels to a block's queries, turned and scaled; `row` has room for one.
template <typename T>
inline void read_queries(const Block<T> &block, float scale, float *row, float *panels) {
    const Family<T> &f = block.family;
    std::memset(panels, 0, f.wide * sizeof(Vector));
    for (int64_t lane = 0; lane < block.count; ++lane) {
        turn(f.h, block.tokens[lane], 1.f, f.together + block.query(lane), row);
        read_row(row, f.h.width, scale, lane, panels);
    }
}

// Sets a row of whole vectors to what its lane of panels holds, times a scale.
inline void write_row(const float *panels, int64_t wide, float scale, int64_t lane, float *row) {
    for (int64_t i = 0; i < wide; i += LANES)
        store(row + i, load(panels + (i + lane) * LANES) * scale);
}

}  // namespace
