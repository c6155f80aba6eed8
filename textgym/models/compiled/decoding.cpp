// Decoding: one new token a row through all layers, in one call and by one team of threads.
//
// The matrix products are oneDNN's, by the kernel that PyTorch exports for use within a thread. Where
// the weights stay in the cache, each thread takes rows of its own through all layers and never
// waits for another, which may have been put off by whatever else the machine is doing. Weights that
// come from memory are read once: the threads share each product's outputs, and meet after it.

#ifdef _OPENMP
#include <omp.h>
#endif

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
    int64_t width, layer_count, parallel, gated, activation, cached;
    const Layer *layers;
    Norm norm;
    Product head;
    Kernel kernel;
    Release release;
    Attention attention;
    // Where a step works; room for `rounded(rows)` rows, zeros at first. A row's numbers lie in one
    // place whatever the product, so that no thread's rows lie where another's do.
    int64_t most_inputs, most_outputs;
    float *hidden;  // [rows, width]
    void *inputs;   // of whichever product is next, [rows, most_inputs]
    float *wide;    // outputs of qkv and up, [rows, most_outputs]
    float *more;    // outputs of output and down, [rows, most_outputs]
    double *seconds;  // what a step took is added here, by Kind; null where nobody asks
};

enum Kind { PRODUCTS, ATTENTION, ELEMENTWISE };

namespace {

constexpr int64_t PANEL = 64;     // rows that are multiplied at once
constexpr int64_t ROWS_EACH = 4;  // from so many per thread on they go through the layers apart

// oneDNN compiles a kernel for each number of rows, so that there are few of them; products.py
// rounds likewise.
inline int64_t rounded(int64_t rows) { return rows < 4 ? rows : (rows + 3) / 4 * 4; }

inline int64_t blocks_of(const Product &product) {
    return (product.outputs + product.block - 1) / product.block;
}

// A thread and what is its own.
struct Worker {
    int64_t thread, threads;
    bool apart;  // from the other threads, or together with them in every product
    Span rows;   // in all but products that are shared

    Worker(const Decoder &d, int64_t thread, int64_t threads) : thread(thread), threads(threads) {
        apart = d.cached && d.attention.rows >= ROWS_EACH * threads;
        const int64_t count = d.attention.rows, each = rounded((count + threads - 1) / threads);
        rows = {std::min(count, thread * each), std::min(count, (thread + 1) * each)};
    }

    // Waits until all threads have come here, where what is next reads what others wrote.
    void meet() const {
        if (!apart) {
#pragma omp barrier
        }
    }
};

template <typename T>
void multiply(const Worker &w, const Decoder &d, const Product &p, const T *inputs, float *outputs,
              int64_t stride) {
    const int64_t blocks = blocks_of(p);
    const Span rows = w.apart ? w.rows : Span{0, d.attention.rows};
    const Span own = w.apart ? Span{0, blocks}
                             : Span{blocks * w.thread / w.threads, blocks * (w.thread + 1) / w.threads};
    const T *weight = static_cast<const T *>(p.weight);
    for (int64_t start = own.first * p.block; start < own.end * p.block; start += p.block)
        for (int64_t row = rows.first; row < rows.end; row += PANEL) {
            const int64_t count = rounded(std::min(PANEL, rows.end - row));
            float *to = outputs + row * stride + start;
            if (p.bias)
                for (int64_t i = 0; i < count; ++i)
                    std::memcpy(to + i * stride, p.bias + start, p.block * sizeof(float));
            d.kernel(count, p.block, p.inputs, d.most_inputs, p.block, stride, p.bias != nullptr,
                     inputs + row * d.most_inputs, weight + start * p.inputs, to, sizeof(T) == 2);
        }
    w.meet();
}

// Adds what a layer computed to the sum of those before, where there is any; and norms the sum.
template <typename T>
void add_norm(const Worker &w, const Decoder &d, bool added, const Norm &norm, T *normed) {
    const int64_t width = d.width;
    for (int64_t row = w.rows.first; row < w.rows.end; ++row) {
        float *x = d.hidden + row * width;
        const float *more = d.more + row * d.most_outputs;
        if (added)
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) x[i] += more[i];
        normalise(x, width, norm.weight, norm.bias, norm.epsilon, normed + row * d.most_inputs);
    }
    w.meet();
}

// The same where both halves of a layer read its input: the sum is normed first, then added to.
template <typename T>
void norm_add(const Worker &w, const Decoder &d, const Norm &norm, T *normed) {
    const int64_t width = d.width;
    for (int64_t row = w.rows.first; row < w.rows.end; ++row) {
        float *x = d.hidden + row * width;
        const float *more = d.more + row * d.most_outputs;
        normalise(x, width, norm.weight, norm.bias, norm.epsilon, normed + row * d.most_inputs);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) x[i] += more[i];
    }
    w.meet();
}

template <float (*Activation)(float), typename T>
void activate(const Worker &w, const Decoder &d, const Product &up, T *to) {
    const int64_t width = d.gated ? up.outputs / 2 : up.outputs;
    for (int64_t row = w.rows.first; row < w.rows.end; ++row) {
        const float *x = d.wide + row * d.most_outputs, *open = x + width;
        T *y = to + row * d.most_inputs;
        if (d.gated) {
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) write(y[i], Activation(x[i]) * open[i]);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) write(y[i], Activation(x[i]));
        }
    }
    w.meet();
}

// In the order of ACTIVATIONS in decoding.py.
template <typename T>
void activate(const Worker &w, const Decoder &d, const Product &up, T *to) {
    switch (d.activation) {
        case 0: return activate<silu>(w, d, up, to);
        case 1: return activate<relu>(w, d, up, to);
        case 2: return activate<gelu>(w, d, up, to);
        case 3: return activate<gelu_tanh>(w, d, up, to);
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

// A thread's part of a step.
template <typename T>
void work(const Worker &w, const Decoder &d, float *logits) {
    T *inputs = static_cast<T *>(d.inputs);
    Clock clock(w.thread == 0 ? d.seconds : nullptr);
    Scratch<T> scratch;
    for (int64_t i = 0; i < d.layer_count; ++i) {
        const Layer &layer = d.layers[i];
        add_norm(w, d, i > 0, layer.attention_norm, inputs);
        clock.book(ELEMENTWISE);
        multiply(w, d, layer.qkv, inputs, d.wide, d.most_outputs);
        clock.book(PRODUCTS);
        attend(d.attention, layer.memory, w.rows, d.wide, d.most_outputs, inputs, d.most_inputs,
               scratch);
        w.meet();
        clock.book(ATTENTION);
        multiply(w, d, layer.output, inputs, d.more, d.most_outputs);
        clock.book(PRODUCTS);
        if (d.parallel)
            norm_add(w, d, layer.mlp_norm, inputs);
        else
            add_norm(w, d, true, layer.mlp_norm, inputs);
        clock.book(ELEMENTWISE);
        multiply(w, d, layer.up, inputs, d.wide, d.most_outputs);
        clock.book(PRODUCTS);
        activate(w, d, layer.up, inputs);
        clock.book(ELEMENTWISE);
        multiply(w, d, layer.down, inputs, d.more, d.most_outputs);
        clock.book(PRODUCTS);
    }
    add_norm(w, d, d.layer_count > 0, d.norm, inputs);
    clock.book(ELEMENTWISE);
    multiply(w, d, d.head, inputs, logits, blocks_of(d.head) * d.head.block);
    clock.book(PRODUCTS);
    d.release(sizeof(T) == 2);  // the processor's tiles, which others want too
}

template <typename T>
void step(const Decoder &d, float *logits, int64_t threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
    work<T>(Worker(d, omp_get_thread_num(), omp_get_num_threads()), d, logits);
#else
    work<T>(Worker(d, 0, 1), d, logits);
#endif
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
