// What follows the products of a linear map: bias, activation, and their gradients.

#include "random.cuh"
#include "reduce.cuh"

enum Activation { IDENTITY = 0, RELU = 1, GELU = 2 };

// erf rather than normcdf: both are right to the last bits, and erf is what the composed form takes.
__device__ inline float cumulative_normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

// y_ij = f(y_ij + b_j) m_ij, in place. `inputs`, if there, gets what f was applied to; without numbers in a sample,
// nothing is dropped.
extern "C" __global__ void bias_activation(float *ys, const float *bias, float *inputs, unsigned long long len,
                                           unsigned columns, int activation, unsigned sample_len, Draw draw,
                                           const Clock *clock) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i >= len) return;
    float x = ys[i] + bias[i % columns];
    if (inputs) inputs[i] = x;
    if (activation == RELU) x = x <= 0.0f ? 0.0f : x;
    if (activation == GELU) x = x * cumulative_normal(x);
    if (sample_len) x *= mask(draw, clock, i / sample_len, i % sample_len);
    ys[i] = x;
}

// dx = dy f'(x); for ReLU, `xs` may be the outputs.
extern "C" __global__ void activation_gradient(const float *grad, const float *xs, float *grad_xs,
                                               unsigned long long len, int activation) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i >= len) return;
    float x = xs[i], dy = grad[i];
    if (activation == RELU) {
        grad_xs[i] = x <= 0.0f ? 0.0f : dy;
    } else {
        float density = 0.3989422804014327f * expf(-0.5f * x * x);
        grad_xs[i] = dy * (cumulative_normal(x) + x * density);
    }
}

// sum_i x_ij over the rows of a slice: out (slices, columns). A block has 8 columns, 32 bytes of a row, and 128 rows of
// threads.
extern "C" __global__ void column_sums(const float *xs, float *out, unsigned rows, unsigned columns) {
    __shared__ float room[128][9];
    unsigned column = blockIdx.x * 8 + threadIdx.x;
    unsigned slice = (rows + gridDim.y - 1) / gridDim.y;
    unsigned begin = blockIdx.y * slice, end = min(rows, begin + slice);
    float total = 0.0f;
    if (column < columns)
        for (unsigned row = begin + threadIdx.y; row < end; row += 128)
            total += xs[(unsigned long long)row * columns + column];
    room[threadIdx.y][threadIdx.x] = total;
    total = rows_of_block(room);
    if (threadIdx.y == 0 && column < columns) out[(unsigned long long)blockIdx.y * columns + column] = total;
}
