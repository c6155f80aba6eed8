// Decoding: attention of one new token a row, over keys and values kept in blocks, and the draw.

#include <algorithm>

#include "common.h"

namespace {

constexpr int64_t COLUMNS = 32;  // of keys and values that lie together; decoding.py knows it too
constexpr int64_t WIDEST = 256;  // coordinates of a head
constexpr int64_t TOKENS = 128;  // whose weights are summed together when one is drawn
static_assert(COLUMNS == 2 * LANES, "attend_block keeps a block's scores in two vectors");

}  // namespace

struct Attention {
    int64_t rows, heads, kv_heads, width, rotary;
    const float *cosines, *sines;  // [rows, rotary / 2]
    const float *query_norm, *key_norm;
    float epsilon;
    const int32_t *order;
    const int64_t *slots, *prompts, *prompt_lengths;
    const void *prompt_columns;  // [2, N, kv_heads, blocks, COLUMNS * width]
    int64_t prompt_count, prompt_blocks;
    void *const *chunks;  // each [2, slots, kv_heads, COLUMNS * width], for this layer
    int64_t slot_count, length;
};

namespace {

// Columns that lie together: keys coordinate by coordinate, values column by column.
template <typename T>
struct Block {
    const T *keys, *values;
    int64_t count;
};

// Returns a query's product with each key in `Vectors` vectors of a block.
template <int64_t Vectors, typename T>
inline void multiply(const float *query, const T *keys, int64_t width, float *scores) {
    Lanes sums[2][Vectors] = {};  // two of each, so that one need not wait for the other
    for (int64_t i = 0; i < width; i += 2)
        for (int64_t j = 0; j < 2; ++j)
            for (int64_t v = 0; v < Vectors; ++v)
                sums[j][v] += query[i + j] * load(keys + (i + j) * COLUMNS + v * LANES);
    for (int64_t v = 0; v < Vectors; ++v) {
        const Lanes sum = sums[0][v] + sums[1][v];
        std::memcpy(scores + v * LANES, &sum, sizeof sum);
    }
}

// Returns a query's product with each key of a block; -infinity beyond the block's count.
template <typename T>
inline void score(const float *query, const Block<T> &block, int64_t width, float *scores) {
    if (block.count > LANES)
        multiply<2>(query, block.keys, width, scores);
    else
        multiply<1>(query, block.keys, width, scores);
    for (int64_t c = block.count; c < COLUMNS; ++c) scores[c] = -INFINITY;
}

// Makes scores, times a scale, into weights of a softmax, and returns what they are to be divided by.
inline float weigh(std::vector<float> &scores, float scale) {
    float *x = scores.data();
    const int64_t count = scores.size();
    float highest = -INFINITY, total = 0;
#pragma omp simd reduction(max : highest)
    for (int64_t c = 0; c < count; ++c) highest = x[c] > highest ? x[c] : highest;
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < count; ++c) {
        x[c] = exponential((x[c] - highest) * scale);
        total += x[c];
    }
    return total;
}

// Returns LANES coordinates, from `start` on, of the values mixed by their weights.
template <typename T>
inline Lanes mix(const std::vector<Block<T>> &blocks, const float *weights, int64_t start,
                 int64_t width) {
    Lanes sums[2] = {};
    for (const Block<T> &block : blocks) {
        const T *values = block.values + start;
        int64_t c = 0;
        for (; c + 1 < block.count; c += 2) {
            sums[0] += weights[c] * load(values + c * width);
            sums[1] += weights[c + 1] * load(values + (c + 1) * width);
        }
        if (c < block.count) sums[0] += weights[c] * load(values + c * width);
        weights += COLUMNS;
    }
    return sums[0] + sums[1];
}

// A head's coordinates, normed and rotated, with zeros up to a whole number of vectors.
template <typename T>
inline void read_head(const Attention &a, const T *from, int64_t row, const float *norm, float *to) {
    const int64_t width = a.width, half = a.rotary / 2;
    for (int64_t i = width; i < padded(width); ++i) to[i] = 0;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) to[i] = read(from[i]);
    if (norm) {
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; ++i) squares += to[i] * to[i];
        const float scale = 1.f / std::sqrt(squares / width + a.epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) to[i] *= scale * norm[i];
    }
    const float *cosines = a.cosines + row * half, *sines = a.sines + row * half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
        const float x = to[i], y = to[i + half];
        to[i] = x * cosines[i] - y * sines[i];
        to[i + half] = y * cosines[i] + x * sines[i];
    }
}

// Keeps a new key and value in the last of a row's own blocks.
template <typename T>
inline void keep(const Attention &a, const T *from, int64_t row, int64_t head, T *keys, T *values) {
    const int64_t column = (a.length - 1) % COLUMNS, width = padded(a.width);
    float key[WIDEST];
    read_head(a, from + (a.heads + head) * a.width, row, a.key_norm, key);
    for (int64_t i = 0; i < width; ++i) write(keys[i * COLUMNS + column], key[i]);
    const T *value = from + (a.heads + a.kv_heads + head) * a.width;
    std::memcpy(values + column * width, value, a.width * sizeof(T));
}

template <typename T>
void attend(const Attention &a, const T *qkv, T *out, int64_t threads) {
    const int64_t groups = a.heads / a.kv_heads, width = padded(a.width), size = COLUMNS * width;
    const int64_t own_side = a.slot_count * a.kv_heads * size;
    const int64_t prompt_side = a.prompt_count * a.kv_heads * a.prompt_blocks * size;
    const float scale = 1.f / std::sqrt(static_cast<float>(a.width));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Block<T>> blocks;
        std::vector<float> scores;
#pragma omp for
        for (int64_t item = 0; item < a.rows * a.kv_heads; ++item) {
            const int64_t row = a.order[item] / a.kv_heads, head = a.order[item] % a.kv_heads;
            const T *from = qkv + row * (a.heads + 2 * a.kv_heads) * a.width;
            const int64_t prompt = a.prompts[row], said = a.prompt_lengths[prompt];
            const T *first = static_cast<const T *>(a.prompt_columns) +
                             (prompt * a.kv_heads + head) * a.prompt_blocks * size;
            blocks.clear();
            for (int64_t c = 0; c < said; c += COLUMNS) {
                const T *keys = first + c * width;
                blocks.push_back({keys, keys + prompt_side, std::min(COLUMNS, said - c)});
            }
            T *keys = nullptr;
            for (int64_t c = 0; c < a.length; c += COLUMNS) {
                keys = static_cast<T *>(a.chunks[c / COLUMNS]) +
                       (a.slots[row] * a.kv_heads + head) * size;
                blocks.push_back({keys, keys + own_side, std::min(COLUMNS, a.length - c)});
            }
            keep(a, from, row, head, keys, keys + own_side);
            scores.resize(blocks.size() * COLUMNS);
            for (int64_t group = head * groups; group < (head + 1) * groups; ++group) {
                float query[WIDEST], mixed[WIDEST];
                read_head(a, from + group * a.width, row, a.query_norm, query);
                for (size_t i = 0; i < blocks.size(); ++i)
                    score(query, blocks[i], width, scores.data() + i * COLUMNS);
                const float total = weigh(scores, scale);
                for (int64_t i = 0; i < width; i += LANES) {
                    Lanes lanes = mix(blocks, scores.data(), i, width) / total;
                    std::memcpy(mixed + i, &lanes, sizeof lanes);
                }
                T *to = out + (row * a.heads + group) * a.width;
                for (int64_t i = 0; i < a.width; ++i) write(to[i], mixed[i]);
            }
        }
    }
}

// Draws one token a row: the first at which the sum of weights exceeds that part of the total. Sums
// over runs of TOKENS find the run, its own weights the token.
template <typename T>
void draw(int64_t rows, int64_t vocabulary, const T *logits, const double *uniforms,
          int64_t *tokens, float *logprobs, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *x = logits + row * vocabulary;
        float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
        for (int64_t i = 0; i < vocabulary; ++i) highest = read(x[i]) > highest ? read(x[i]) : highest;
        std::vector<double> totals;
        totals.reserve(vocabulary / TOKENS + 1);
        double total = 0;
        for (int64_t start = 0; start < vocabulary; start += TOKENS) {
            int64_t end = start + TOKENS < vocabulary ? start + TOKENS : vocabulary;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; ++i) sum += exponential(read(x[i]) - highest);
            total += sum;
            totals.push_back(total);
        }
        double target = uniforms[row] * total;
        size_t block = 0;
        while (totals[block] <= target && totals[block] < total) ++block;
        double before = block ? totals[block - 1] : 0;
        int64_t start = block * TOKENS, found = 0;  // also where logits are no numbers
        int64_t end = start + TOKENS < vocabulary ? start + TOKENS : vocabulary;
        for (int64_t i = start; i < end; ++i) {
            float weight = exponential(read(x[i]) - highest);
            if (weight > 0) found = i;
            before += weight;
            if (found == i && before > target) break;
        }
        tokens[row] = found;
        logprobs[row] = static_cast<float>(read(x[found]) - highest - std::log(total));
    }
}

}  // namespace

extern "C" {

#define ATTEND(name, T)                                                                            \
    void name(const Attention *attention, const T *qkv, T *out, int64_t threads) {                 \
        attend(*attention, qkv, out, threads);                                                     \
    }
ATTEND(attend_float32, float)
ATTEND(attend_bfloat16, bfloat16)

#define DRAW(name, T)                                                                              \
    void name(int64_t rows, int64_t vocabulary, const T *logits, const double *uniforms,           \
              int64_t *tokens, float *logprobs, int64_t threads) {                                 \
        draw(rows, vocabulary, logits, uniforms, tokens, logprobs, threads);                       \
    }
DRAW(draw_float32, float)
DRAW(draw_bfloat16, bfloat16)
}
