// The softmax of whole rows, only where it is needed: its sums forward, its gradient backward.

#include "rows.h"

namespace {

// The log-softmax at a token, and for the gradient each row's highest logit and the sum of the
// exponentials of what every logit is above it.
template <typename T>
void selected_logprobs(int64_t rows, int64_t vocabulary, const T *logits, const int64_t *ids,
                       float *logprobs, float *highest, float *totals, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *x = logits + row * vocabulary;
        const float most = highest_of(x, vocabulary);
        double total = 0;
        for (int64_t start = 0; start < vocabulary; start += TOKENS)
            total += weights_from(start, x, vocabulary, most);
        logprobs[row] = static_cast<float>(read(x[ids[row]]) - most - std::log(total));
        highest[row] = most;
        totals[row] = static_cast<float>(total);
    }
}

// One at the token, less the softmax, times what is given for the row.
template <typename T>
void selected_logprobs_backward(int64_t rows, int64_t vocabulary, const T *logits,
                                const int64_t *ids, const float *highest, const float *totals,
                                const float *given, T *d_logits, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *x = logits + row * vocabulary;
        T *d = d_logits + row * vocabulary;
        const float most = highest[row], scale = -given[row] / totals[row];
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; ++i) write(d[i], exponential(read(x[i]) - most) * scale);
        const float chosen = exponential(read(x[ids[row]]) - most) / totals[row];
        write(d[ids[row]], given[row] * (1.f - chosen));
    }
}

}  // namespace

extern "C" {

#define LIKELIHOOD(ending, T)                                                                      \
    void selected_logprobs_##ending(int64_t rows, int64_t vocabulary, const T *logits,             \
                                    const int64_t *ids, float *logprobs, float *highest,           \
                                    float *totals, int64_t threads) {                              \
        selected_logprobs(rows, vocabulary, logits, ids, logprobs, highest, totals, threads);      \
    }                                                                                              \
    void selected_logprobs_backward_##ending(                                                      \
        int64_t rows, int64_t vocabulary, const T *logits, const int64_t *ids,                     \
        const float *highest, const float *totals, const float *given, T *d_logits,                \
        int64_t threads) {                                                                         \
        selected_logprobs_backward(rows, vocabulary, logits, ids, highest, totals, given,          \
                                   d_logits, threads);                                             \
    }
LIKELIHOOD(float32, float)
LIKELIHOOD(bfloat16, bfloat16)
}
