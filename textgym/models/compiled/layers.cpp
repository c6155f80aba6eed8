// Norms and gates, each in one pass over memory, forward and backward; and the heads of a product.

#include "heads.h"
#include "rows.h"

namespace {

constexpr int64_t CHUNK = 64;  // rows whose shares of a weight's gradient are summed together

template <typename T>
void add_norm(int64_t rows, int64_t width, const float *hidden, const T *more, const float *weight,
              const float *bias, float *total, float epsilon, T *normed, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const float *x = hidden + row * width;
        if (more) {
            float *sum = total + row * width;
            const T *added = more + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) sum[i] = x[i] + read(added[i]);
            x = sum;
        }
        normalise(x, width, weight, bias, epsilon, normed + row * width);
    }
}

template <typename T>
struct NormGradient {
    int64_t rows, width, centred;
    float epsilon;
    const float *total, *weight;
    const float *d_total;  // null for nothing
    const T *d_normed;
    float *d_hidden;
    T *d_more;                 // null where it is d_hidden, or frozen
    float *d_weight, *d_bias;  // null where they are frozen
};

// One row's gradient: of hidden + more, the same; and its shares of the weight's and the bias's.
template <typename T>
inline void add_norm_row(const NormGradient<T> &g, int64_t row, float *shares) {
    const int64_t width = g.width, start = row * width;
    const float *x = g.total + start, *weight = g.weight;
    const T *d_normed = g.d_normed + start;
    const Moments m = moments(x, width, g.centred, g.epsilon);
    float along = 0, flat = 0;  // what the row's scale and its mean hold back
#pragma omp simd reduction(+ : along, flat)
    for (int64_t i = 0; i < width; ++i) {
        const float slope = read(d_normed[i]) * weight[i];
        along += slope * (x[i] - m.mean);
        flat += slope;
    }
    along *= m.scale * m.scale / width;
    flat = g.centred ? flat / width : 0;
    float *d_hidden = g.d_hidden + start;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i)
        d_hidden[i] =
            m.scale * (read(d_normed[i]) * weight[i] - flat - (x[i] - m.mean) * along);
    if (g.d_total) {
        const float *d_total = g.d_total + start;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) d_hidden[i] += d_total[i];
    }
    if (g.d_more) {
        T *d_more = g.d_more + start;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) write(d_more[i], d_hidden[i]);
    }
    if (shares) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
            const float slope = read(d_normed[i]);
            shares[i] += slope * (x[i] - m.mean) * m.scale;
            shares[width + i] += slope;
        }
    }
}

// Which rows are summed together does not depend on the threads, nor does the order of the sums.
template <typename T>
void add_norm_backward(const NormGradient<T> &g, int64_t threads) {
    const int64_t chunks = (g.rows + CHUNK - 1) / CHUNK, size = 2 * g.width;
    std::vector<float> shares(g.d_weight ? chunks * size : 0);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t last = (chunk + 1) * CHUNK, end = last < g.rows ? last : g.rows;
        float *of_chunk = g.d_weight ? shares.data() + chunk * size : nullptr;
        for (int64_t row = chunk * CHUNK; row < end; ++row) add_norm_row(g, row, of_chunk);
    }
    if (!g.d_weight) return;
    for (int64_t i = 0; i < g.width; ++i) {
        float weights = 0, biases = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            weights += shares[chunk * size + i];
            biases += shares[chunk * size + g.width + i];
        }
        g.d_weight[i] = weights;
        if (g.d_bias) g.d_bias[i] = biases;
    }
}

template <typename T>
void swiglu(int64_t rows, int64_t width, const T *both, T *out, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *gate = both + 2 * row * width, *up = gate + width;
        T *y = out + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) write(y[i], silu(read(gate[i])) * read(up[i]));
    }
}

template <typename T>
void swiglu_backward(int64_t rows, int64_t width, const T *both, const T *d_out, T *d_both,
                     int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *gate = both + 2 * row * width, *up = gate + width, *slope = d_out + row * width;
        T *d_gate = d_both + 2 * row * width, *d_up = d_gate + width;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
            const float x = read(gate[i]), d = read(slope[i]);
            const float open = 1.f / (1.f + exponential(-x));
            write(d_gate[i], d * read(up[i]) * open * (1.f + x * (1.f - open)));
            write(d_up[i], d * x * open);
        }
    }
}

template <typename T>
void split_heads(int64_t rows, const Heads &h, const T *qkv, float *queries, float *keys,
                 float *values, int64_t threads) {
    const int64_t asked = h.heads * h.width, told = h.kv_heads * h.width;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *from = qkv + row * h.numbers();
        for (int64_t i = 0; i < asked; i += h.width)
            turn(h, row, 1.f, from + i, queries + row * asked + i);
        for (int64_t i = 0; i < told; i += h.width)
            turn(h, row, 1.f, from + asked + i, keys + row * told + i);
        copy(told, from + asked + told, values + row * told);
    }
}

}  // namespace

extern "C" {

#define NORMS(ending, T)                                                                           \
    void add_norm_##ending(int64_t rows, int64_t width, const float *hidden, const T *more,        \
                           const float *weight, const float *bias, float *total, float epsilon,    \
                           T *normed, int64_t threads) {                                           \
        add_norm(rows, width, hidden, more, weight, bias, total, epsilon, normed, threads);        \
    }                                                                                              \
    void add_norm_backward_##ending(                                                               \
        int64_t rows, int64_t width, int64_t centred, float epsilon, const float *total,           \
        const float *weight, const float *d_total, const T *d_normed, float *d_hidden, T *d_more,  \
        float *d_weight, float *d_bias, int64_t threads) {                                         \
        const NormGradient<T> gradient = {rows,    width,    centred,  epsilon, total,    weight,  \
                                          d_total, d_normed, d_hidden, d_more,  d_weight, d_bias}; \
        add_norm_backward(gradient, threads);                                                      \
    }
NORMS(float32, float)
NORMS(bfloat16, bfloat16)

#define GATES(ending, T)                                                                           \
    void swiglu_##ending(int64_t rows, int64_t width, const T *both, T *out, int64_t threads) {    \
        swiglu(rows, width, both, out, threads);                                                   \
    }                                                                                              \
    void swiglu_backward_##ending(int64_t rows, int64_t width, const T *both, const T *d_out,      \
                                  T *d_both, int64_t threads) {                                    \
        swiglu_backward(rows, width, both, d_out, d_both, threads);                                \
    }
GATES(float32, float)
GATES(bfloat16, bfloat16)

#define HEADS(ending, T)                                                                           \
    void split_heads_##ending(int64_t rows, const Heads *heads, const T *qkv, float *queries,      \
                              float *keys, float *values, int64_t threads) {                       \
        split_heads(rows, *heads, qkv, queries, keys, values, threads);                            \
    }
HEADS(float32, float)
HEADS(bfloat16, bfloat16)
}
