// What becomes of a product in a linear map.
#pragma once

#include "random.cuh"

enum Activation { IDENTITY = 0, RELU = 1, GELU = 2 };

// A bias is added, an activation applied, and some dropped.
struct Then {
    const float *bias;    // or none
    float *inputs;        // room for what the activation is applied to, if it is kept
    unsigned activation;
    unsigned sample_len;  // none where nothing is dropped
};

// erf rather than normcdf: both are right to the last bits, and erf is what the composed form takes.
__device__ inline float cumulative_normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

// Of element `at`, in this column.
__device__ inline float finished(float x, unsigned long long at, unsigned column, const Then &then, const Draw &draw,
                                 const Clock *clock) {
    if (then.bias) x += then.bias[column];
    if (then.inputs) then.inputs[at] = x;
    if (then.activation == RELU) x = x <= 0.0f ? 0.0f : x;
    if (then.activation == GELU) x = x * cumulative_normal(x);
    if (then.sample_len) x *= mask(draw, clock, at / then.sample_len, at % then.sample_len);
    return x;
}
