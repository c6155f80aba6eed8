// Decoding: one new token a row through all layers, in one call and by one team of threads.
//
// The matrix products are oneDNN's, by the kernel that PyTorch exports for use within a thread; a
// block of a product's outputs is one thread's. Activations stay in the cache from step to step.

#include <chrono>

#include "attend.h"
#include "rows.h"

// oneDNN's kernel, at::native::cpublas::brgemm: outputs [M, N] of inputs [M, K] and a weight [K, N].
using Kernel = void (*)(int64_t M, int64_t N, int64_t K, int64_t input_stride,
                        int64_t weight_stride, int64_t output_stride, bool add, const void *inputs,
                        const void *weight, float *outputs, bool in_pairs);
using Release = void (*)(bool in_pairs);

struct Norm {
    const float *weight, *bias;  // the bias is null for a root-mean-square norm
    float epsilon;
};

// A linear layer. Its weight is cut into blocks of outputs, with zeros after the last of them, each
// [inputs, block] float32, or [inputs / 2, block, 2] bfloat16: two inputs lie side by side.
struct Product {
    int64_t inputs, outputs, block;
    const void *weight;
    const float *bias;  // [outputs in whole blocks]; null for none
};

struct Layer {
    Norm attention_norm;
    Product qkv;
    Memory memory;
    Product output;
    Norm mlp_norm;
    Product up, down;
};

struct Decoder {
    int64_t width, layer_count, parallel, gated, activation;
    const Layer *layers;
    Norm norm;
    Product head;
    Kernel kernel;
    Release release;
    Attention attention;
    // Where a step works; room for `rounded(rows)` rows, zeros at first.
    float *hidden;  // [rows, width]
    void *inputs;   // of whichever product is next, [rows, its inputs]
    float *wide;    // outputs of qkv and up
    float *more;    // outputs of output and down
    double *seconds;  // what a step took is added here, by Kind; null where nobody asks
};

enum Kind { PRODUCTS, ATTENTION, ELEMENTWISE };

namespace {

constexpr int64_t PANEL = 64;  // rows that are multiplied at once

// oneDNN compiles a kernel for each number of rows, so that there are few of them; decoding.py
// rounds likewise.
inline int64_t rounded(int64_t rows) { return rows < 8 ? rows : (rows + 7) / 8 * 8; }

inline int64_t stride_of(const Product &product) {
    return (product.outputs + product.block - 1) / product.block * product.block;
}

template <typename T>
void multiply(const Decoder &d, const Product &p, const T *inputs, float *outputs) {
    const int64_t rows = rounded(d.attention.rows), stride = stride_of(p);
    const T *weight = static_cast<const T *>(p.weight);
#pragma omp for collapse(2) schedule(static)
    for (int64_t start = 0; start < stride; start += p.block)
        for (int64_t row = 0; row < rows; row += PANEL) {
            const int64_t count = std::min(PANEL, rows - row);
            float *to = outputs + row * stride + start;
            if (p.bias)
                for (int64_t i = 0; i < count; ++i)
                    std::memcpy(to + i * stride, p.bias + start, p.block * sizeof(float));
            d.kernel(count, p.block, p.inputs, p.inputs, p.block, stride, p.bias != nullptr,
                     inputs + row * p.inputs, weight + start * p.inputs, to, sizeof(T) == 2);
        }
}

// Adds what a layer computed to the sum of those before, where there is any; and norms the sum.
template <typename T>
void add_norm(const Decoder &d, const Product *added, const Norm &norm, T *normed) {
    const int64_t width = d.width, stride = added ? stride_of(*added) : 0;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < d.attention.rows; ++row) {
        float *x = d.hidden + row * width;
        const float *more = d.more + row * stride;
        if (added)
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) x[i] += more[i];
        normalise(x, width, norm.weight, norm.bias, norm.epsilon, normed + row * width);
    }
}

// The same where both halves of a layer read its input: the sum is normed first, then added to.
template <typename T>
void norm_add(const Decoder &d, const Product &added, const Norm &norm, T *normed) {
    const int64_t width = d.width, stride = stride_of(added);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < d.attention.rows; ++row) {
        float *x = d.hidden + row * width;
        const float *more = d.more + row * stride;
        normalise(x, width, norm.weight, norm.bias, norm.epsilon, normed + row * width);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) x[i] += more[i];
    }
}

template <float (*Activation)(float), typename T>
void activate(const Decoder &d, const Product &up, T *to) {
    const int64_t stride = stride_of(up), width = d.gated ? up.outputs / 2 : up.outputs;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < d.attention.rows; ++row) {
        const float *x = d.wide + row * stride, *open = x + width;
        T *y = to + row * width;
        if (d.gated) {
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) write(y[i], Activation(x[i]) * open[i]);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) write(y[i], Activation(x[i]));
        }
    }
}

// In the order of ACTIVATIONS in decoding.py.
template <typename T>
void activate(const Decoder &d, const Product &up, T *to) {
    switch (d.activation) {
        case 0: return activate<silu>(d, up, to);
        case 1: return activate<relu>(d, up, to);
        case 2: return activate<gelu>(d, up, to);
        case 3: return activate<gelu_tanh>(d, up, to);
    }
}

// Books a thread's time; the first thread's waits are the others' work.
class Clock {
  public:
    explicit Clock(double *seconds) : seconds_(seconds), last_(std::chrono::steady_clock::now()) {}
    void book(Kind kind) {
        if (!seconds_) return;
        const auto now = std::chrono::steady_clock::now();
        seconds_[kind] += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

  private:
    double *seconds_;
    std::chrono::steady_clock::time_point last_;
};

template <typename T>
void step(const Decoder &d, float *logits, int64_t threads) {
    T *inputs = static_cast<T *>(d.inputs);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        double *seconds = nullptr;
#pragma omp master
        seconds = d.seconds;
        Clock clock(seconds);
        Scratch<T> scratch;
        const Product *before = nullptr;
        for (int64_t i = 0; i < d.layer_count; ++i) {
            const Layer &layer = d.layers[i];
            add_norm(d, before, layer.attention_norm, inputs);
            clock.book(ELEMENTWISE);
            multiply(d, layer.qkv, inputs, d.wide);
            clock.book(PRODUCTS);
            attend(d.attention, layer.memory, d.wide, stride_of(layer.qkv), inputs, scratch);
            clock.book(ATTENTION);
            multiply(d, layer.output, inputs, d.more);
            clock.book(PRODUCTS);
            if (d.parallel)
                norm_add(d, layer.output, layer.mlp_norm, inputs);
            else
                add_norm(d, &layer.output, layer.mlp_norm, inputs);
            clock.book(ELEMENTWISE);
            multiply(d, layer.up, inputs, d.wide);
            clock.book(PRODUCTS);
            activate(d, layer.up, inputs);
            clock.book(ELEMENTWISE);
            multiply(d, layer.down, inputs, d.more);
            clock.book(PRODUCTS);
            before = &layer.down;
        }
        add_norm(d, before, d.norm, inputs);
        clock.book(ELEMENTWISE);
        multiply(d, d.head, inputs, logits);
        clock.book(PRODUCTS);
        d.release(sizeof(T) == 2);  // the processor's tiles, which others want too
    }
}

// Whether the kernel multiplies on this processor: tried on two rows of ones.
template <typename T>
int64_t multiplies(Kernel kernel, Release release) {
    constexpr int64_t ROWS = 2, OUTPUTS = 32, INPUTS = 4;
    T inputs[ROWS * INPUTS], weight[INPUTS * OUTPUTS];
    float outputs[ROWS * OUTPUTS] = {};
    for (T &x : inputs) write(x, 1.f);
    for (T &x : weight) write(x, 0.5f);
    try {
        kernel(ROWS, OUTPUTS, INPUTS, INPUTS, OUTPUTS, OUTPUTS, false, inputs, weight, outputs,
               sizeof(T) == 2);
        release(sizeof(T) == 2);
    } catch (...) {  // it knows neither this processor nor a way around
        return 0;
    }
    return std::all_of(outputs, outputs + ROWS * OUTPUTS, [](float x) { return x == 2.f; });
}

}  // namespace

extern "C" {

// Sets logits [rounded(rows), vocabulary in whole blocks] of the rows' vectors in `hidden`.
#define DECODING(ending, T)                                                                        \
    void step_##ending(const Decoder *decoder, float *logits, int64_t threads) {                   \
        step<T>(*decoder, logits, threads);                                                        \
    }                                                                                              \
    void multiplies_##ending(Kernel kernel, Release release, int64_t *found, int64_t) {            \
        *found = multiplies<T>(kernel, release);                                                   \
    }
DECODING(float32, float)
DECODING(bfloat16, bfloat16)
}
