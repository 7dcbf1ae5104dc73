// What follows the products of a linear map: bias, activation, and their gradients.

enum Activation { IDENTITY = 0, RELU = 1, GELU = 2 };

// erf rather than normcdf: both are right to the last bits, and erf is what the composed form takes.
__device__ inline float cumulative_normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

// y_ij = f(y_ij + b_j), in place. `inputs`, if there, gets what f was applied to.
extern "C" __global__ void bias_activation(float *ys, const float *bias, float *inputs, unsigned long long len,
                                           unsigned columns, int activation) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i >= len) return;
    float x = ys[i] + bias[i % columns];
    if (inputs) inputs[i] = x;
    if (activation == RELU) x = x <= 0.0f ? 0.0f : x;
    if (activation == GELU) x = x * cumulative_normal(x);
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

// sum_i x_ij over the rows of a slice: out (slices, columns). A block has 32 columns and 32 rows of threads.
extern "C" __global__ void column_sums(const float *xs, float *out, unsigned rows, unsigned columns) {
    __shared__ float room[32][33];
    unsigned column = blockIdx.x * 32 + threadIdx.x;
    unsigned slice = (rows + gridDim.y - 1) / gridDim.y;
    unsigned begin = blockIdx.y * slice, end = min(rows, begin + slice);
    float total = 0.0f;
    if (column < columns)
        for (unsigned row = begin + threadIdx.y; row < end; row += 32)
            total += xs[(unsigned long long)row * columns + column];
    room[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (unsigned y = 1; y < 32; ++y) total += room[y][threadIdx.x];
        out[(unsigned long long)blockIdx.y * columns + column] = total;
    }
}
