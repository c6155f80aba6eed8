// The draw of a token, by inverse CDF.

#include "rows.h"

namespace {

// Draws one token a row: the first at which the sum of weights exceeds that part of the total. Sums
// over runs of TOKENS find the run, its own weights the token.
template <typename T>
void draw(int64_t rows, int64_t vocabulary, int64_t stride, const T *logits,
          const double *uniforms, int64_t *tokens, float *logprobs, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const T *x = logits + row * stride;
        const float highest = highest_of(x, vocabulary);
        std::vector<double> totals;
        totals.reserve(vocabulary / TOKENS + 1);
        double total = 0;
        for (int64_t start = 0; start < vocabulary; start += TOKENS) {
            total += weights_from(start, x, vocabulary, highest);
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

#define DRAW(name, T)                                                                              \
    void name(int64_t rows, int64_t vocabulary, int64_t stride, const T *logits,                   \
              const double *uniforms, int64_t *tokens, float *logprobs, int64_t threads) {         \
        draw(rows, vocabulary, stride, logits, uniforms, tokens, logprobs, threads);               \
    }
DRAW(draw_float32, float)
DRAW(draw_bfloat16, bfloat16)
}
