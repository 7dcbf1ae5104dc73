// Bias, activation and dropout after a product that cuBLAS computes, and the gradients of activation and bias.
#include "reduce.cuh"
#include "then.cuh"

// Applies `then` in place.
extern "C" __global__ void finish(float *ys, unsigned long long len, unsigned columns, Then then, Draw draw,
                                  const Clock *clock) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < len) ys[i] = finished(ys[i], i, i % columns, then, draw, clock);
}

// dx = dy f'(x); for ReLU, `xs` may be the outputs.
extern "C" __global__ void activation_gradient(const float *grad, const float *xs, float *grad_xs,
                                               unsigned long long len, unsigned activation) {
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

// sum_i x_ij over the rows of a slice: out (slices, columns). A block has 8 x 128 threads (columns x rows); 8
// columns are 32 bytes of a row.
extern "C" __global__ void column_sums(const float *xs, float *out, unsigned rows, unsigned columns) {
    __shared__ float room[128][9];
    unsigned column = blockIdx.x * 8 + threadIdx.x;
    unsigned slice = (rows + gridDim.y - 1) / gridDim.y;
    unsigned begin = blockIdx.y * slice, end = min(rows, begin + slice);
    float total = 0.0f;
    if (column < columns)
#pragma unroll 8
        for (unsigned row = begin + threadIdx.y; row < end; row += 128)
            total += xs[(unsigned long long)row * columns + column];
    room[threadIdx.y][threadIdx.x] = total;
    total = rows_of_block(room);
    if (threadIdx.y == 0 && column < columns) out[(unsigned long long)blockIdx.y * columns + column] = total;
}
