// Small linear maps, for which a launch takes longer than the computation: product, bias, activation and dropout in one
// kernel. A thread computes 2 x 2 numbers of a tile. Its operands are contiguous along the sum in shared memory, so it
// reads four numbers at once. Meanwhile it fetches the whole next tile.
#include "then.cuh"

constexpr unsigned COLUMNS = 32;  // in a tile
constexpr unsigned PAD = 4;       // numbers between rows: threads that read one row each have few bank conflicts

// Numbers fetched from a matrix for a tile of `COUNT` rows of `WIDTH`, by `THREADS` threads.
template <unsigned COUNT, unsigned WIDTH, unsigned THREADS>
struct Fetched {
    static constexpr unsigned EACH = COUNT * WIDTH / THREADS;
    static constexpr unsigned STRIDE = WIDTH + PAD;
    float numbers[EACH];

    // Fetches rows of the matrix (rows, len) from `first` on, from column `begin` on; zeros outside.
    __device__ void rows(const float *matrix, unsigned first, unsigned begin, unsigned rows, unsigned len) {
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            unsigned i = threadIdx.x + j * THREADS, row = first + i / WIDTH, column = begin + i % WIDTH;
            numbers[j] = row < rows && column < len ? matrix[(size_t)row * len + column] : 0.0f;
        }
    }

    __device__ void put_rows(float *tile) const {
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            unsigned i = threadIdx.x + j * THREADS;
            tile[i / WIDTH * STRIDE + i % WIDTH] = numbers[j];
        }
    }

    // Fetches columns of the matrix from `first` on, from row `begin` on, as rows of the tile.
    __device__ void columns(const float *matrix, unsigned first, unsigned begin, unsigned rows, unsigned len) {
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            unsigned i = threadIdx.x + j * THREADS, row = begin + i / COUNT, column = first + i % COUNT;
            numbers[j] = row < rows && column < len ? matrix[(size_t)row * len + column] : 0.0f;
        }
    }

    __device__ void put_columns(float *tile) const {
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            unsigned i = threadIdx.x + j * THREADS;
            tile[i % COUNT * STRIDE + i / COUNT] = numbers[j];
        }
    }
};

__device__ inline float4 four(const float *row, unsigned i) { return *reinterpret_cast<const float4 *>(row + i); }

__device__ inline float dot(float4 x, float4 y, float sum) {
    return sum + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}

// sums_ij += sum_k x_ik y_jk, for two rows each.
template <unsigned DEPTH>
__device__ inline void multiply(float sums[2][2], const float *x0, const float *x1, const float *y0, const float *y1) {
#pragma unroll
    for (unsigned k = 0; k < DEPTH; k += 4) {
        float4 a = four(x0, k), b = four(x1, k), c = four(y0, k), d = four(y1, k);
        sums[0][0] = dot(a, c, sums[0][0]);
        sums[0][1] = dot(a, d, sums[0][1]);
        sums[1][0] = dot(b, c, sums[1][0]);
        sums[1][1] = dot(b, d, sums[1][1]);
    }
}

// y = x W' (weight (columns, inner)) or, for a gradient, y = x W (weight (inner, columns)): ys (rows, columns). A block
// computes 16 x 32 of them.
template <bool OF_GRADIENT>
__device__ inline void product(const float *xs, const float *weight, float *ys, unsigned rows, unsigned inner,
                               unsigned columns, const Then &then, const Draw &draw, const Clock *clock) {
    constexpr unsigned ROWS = 16, DEPTH = 32, THREADS = ROWS * COLUMNS / 4;
    typedef Fetched<ROWS, DEPTH, THREADS> OfXs;
    typedef Fetched<COLUMNS, DEPTH, THREADS> OfWeight;
    constexpr unsigned STRIDE = OfXs::STRIDE;
    __shared__ __align__(16) float sx[ROWS * STRIDE], sw[COLUMNS * STRIDE];
    unsigned x = threadIdx.x % (COLUMNS / 2), y = threadIdx.x / (COLUMNS / 2);
    unsigned first_row = blockIdx.x * ROWS, first_column = blockIdx.y * COLUMNS;
    OfXs of_xs;
    OfWeight of_weight;
    auto fetch = [&](unsigned k) {
        of_xs.rows(xs, first_row, k, rows, inner);
        if (OF_GRADIENT) of_weight.columns(weight, first_column, k, inner, columns);
        else of_weight.rows(weight, first_column, k, columns, inner);
    };
    float sums[2][2] = {};
    fetch(0);
    for (unsigned k = 0; k < inner; k += DEPTH) {
        of_xs.put_rows(sx);
        if (OF_GRADIENT) of_weight.put_columns(sw);
        else of_weight.put_rows(sw);
        __syncthreads();
        if (k + DEPTH < inner) fetch(k + DEPTH);
        multiply<DEPTH>(sums, sx + y * STRIDE, sx + (y + ROWS / 2) * STRIDE, sw + x * STRIDE,
                        sw + (x + COLUMNS / 2) * STRIDE);
        __syncthreads();
    }
#pragma unroll
    for (unsigned i = 0; i < 2; ++i)
#pragma unroll
        for (unsigned j = 0; j < 2; ++j) {
            unsigned row = first_row + y + i * ROWS / 2, column = first_column + x + j * COLUMNS / 2;
            if (row >= rows || column >= columns) continue;
            unsigned long long at = (unsigned long long)row * columns + column;
            ys[at] = finished(sums[i][j], at, column, then, draw, clock);
        }
}

extern "C" __global__ void __launch_bounds__(128)
    small_product(const float *xs, const float *weight, float *ys, unsigned rows, unsigned inner, unsigned columns,
                  Then then, Draw draw, const Clock *clock) {
    product<false>(xs, weight, ys, rows, inner, columns, then, draw, clock);
}

extern "C" __global__ void __launch_bounds__(128)
    small_product_of_gradient(const float *grad, const float *weight, float *grad_xs, unsigned rows, unsigned inner,
                              unsigned columns) {
    product<true>(grad, weight, grad_xs, rows, inner, columns, Then{}, Draw{}, nullptr);
}

// dW_ij = sum_r dy_ri x_rj and db_i = sum_r dy_ri over a slice of the rows: out (slices, outputs * inputs + outputs). A
// block computes 32 x 32 of them.
extern "C" __global__ void __launch_bounds__(256)
    small_gradients(const float *grad, const float *xs, float *out, unsigned rows, unsigned outputs, unsigned inputs) {
    constexpr unsigned ROWS = 64, THREADS = COLUMNS * COLUMNS / 4;
    typedef Fetched<COLUMNS, ROWS, THREADS> Columns;
    constexpr unsigned STRIDE = Columns::STRIDE;
    __shared__ __align__(16) float sg[COLUMNS * STRIDE], sx[COLUMNS * STRIDE];
    unsigned x = threadIdx.x % (COLUMNS / 2), y = threadIdx.x / (COLUMNS / 2);
    unsigned first_input = blockIdx.x * COLUMNS, first_output = blockIdx.y * COLUMNS;
    unsigned slice = (rows + gridDim.z - 1) / gridDim.z;
    unsigned begin = blockIdx.z * slice, end = min(rows, begin + slice);
    bool of_biases = blockIdx.x == 0 && threadIdx.x < COLUMNS;
    Columns of_grad, of_xs;
    auto fetch = [&](unsigned row) {
        of_grad.columns(grad, first_output, row, end, outputs);
        of_xs.columns(xs, first_input, row, end, inputs);
    };
    float sums[2][2] = {}, of_bias = 0.0f;
    fetch(begin);
    for (unsigned row = begin; row < end; row += ROWS) {
        of_grad.put_columns(sg);
        of_xs.put_columns(sx);
        __syncthreads();
        if (row + ROWS < end) fetch(row + ROWS);
        multiply<ROWS>(sums, sg + y * STRIDE, sg + (y + COLUMNS / 2) * STRIDE, sx + x * STRIDE,
                       sx + (x + COLUMNS / 2) * STRIDE);
        if (of_biases)
#pragma unroll
            for (unsigned i = 0; i < ROWS; i += 4)
                of_bias = dot(four(sg + threadIdx.x * STRIDE, i), make_float4(1.0f, 1.0f, 1.0f, 1.0f), of_bias);
        __syncthreads();
    }
    out += (size_t)blockIdx.z * outputs * (inputs + 1);
#pragma unroll
    for (unsigned i = 0; i < 2; ++i)
#pragma unroll
        for (unsigned j = 0; j < 2; ++j) {
            unsigned output = first_output + y + i * COLUMNS / 2, input = first_input + x + j * COLUMNS / 2;
            if (output < outputs && input < inputs) out[output * inputs + input] = sums[i][j];
        }
    unsigned output = first_output + threadIdx.x;
    if (of_biases && output < outputs) out[outputs * inputs + output] = of_bias;
}

// sum_s x_si over a few slices, in order.
extern "C" __global__ void add_slices(const float *slices, float *sums, unsigned count, unsigned len) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len) return;
    float sum = 0.0f;
#pragma unroll 16
    for (unsigned slice = 0; slice < count; ++slice) sum += slices[(size_t)slice * len + i];
    sums[i] = sum;
}
