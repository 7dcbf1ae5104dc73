// Linear maps of few numbers, where launching takes longer than computing: the product with all that follows it in one
// kernel, by tiles of 32 x 32 of which a thread has four numbers.
#include "then.cuh"

constexpr unsigned TILE = 32, HALF = 16;

typedef float Tile[TILE][TILE + 1];  // one column more keeps banks apart

// Numbers (row, column) of a matrix (rows, columns) from (first_row, first_column) on, and zeros around it.
__device__ inline void load(Tile tile, const float *matrix, unsigned first_row, unsigned first_column, unsigned rows,
                            unsigned columns) {
    for (unsigned i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
        unsigned row = first_row + i / TILE, column = first_column + i % TILE;
        bool inside = row < rows && column < columns;
        tile[i / TILE][i % TILE] = inside ? matrix[(unsigned long long)row * columns + column] : 0.0f;
    }
}

// y = x W' (weight (columns, inner)) or, of a gradient, y = x W (weight (inner, columns)): ys (rows, columns).
extern "C" __global__ void small_product(const float *xs, const float *weight, float *ys, unsigned rows,
                                         unsigned inner, unsigned columns, unsigned of_gradient, Then then, Draw draw,
                                         const Clock *clock) {
    __shared__ Tile sx, sw;
    unsigned x = threadIdx.x % HALF, y = threadIdx.x / HALF;
    unsigned first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;
    float sums[2][2] = {};
    for (unsigned k = 0; k < inner; k += TILE) {
        load(sx, xs, first_row, k, rows, inner);
        if (of_gradient) load(sw, weight, k, first_column, inner, columns);
        else load(sw, weight, first_column, k, columns, inner);
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < TILE; ++i) {
            float x0 = sx[y][i], x1 = sx[y + HALF][i];
            float w0 = of_gradient ? sw[i][x] : sw[x][i], w1 = of_gradient ? sw[i][x + HALF] : sw[x + HALF][i];
            sums[0][0] += x0 * w0;
            sums[0][1] += x0 * w1;
            sums[1][0] += x1 * w0;
            sums[1][1] += x1 * w1;
        }
        __syncthreads();
    }
    for (unsigned i = 0; i < 2; ++i)
        for (unsigned j = 0; j < 2; ++j) {
            unsigned row = first_row + y + i * HALF, column = first_column + x + j * HALF;
            if (row >= rows || column >= columns) continue;
            unsigned long long at = (unsigned long long)row * columns + column;
            ys[at] = finished(sums[i][j], at, column, then, draw, clock);
        }
}

// dW_ij = sum_r dy_ri x_rj and db_i = sum_r dy_ri over a slice of the rows: out (slices, outputs * inputs + outputs).
extern "C" __global__ void small_gradients(const float *grad, const float *xs, float *out, unsigned rows,
                                           unsigned outputs, unsigned inputs) {
    __shared__ Tile sg, sx;
    unsigned x = threadIdx.x % HALF, y = threadIdx.x / HALF;
    unsigned first_input = blockIdx.x * TILE, first_output = blockIdx.y * TILE;
    unsigned slice = (rows + gridDim.z - 1) / gridDim.z;
    unsigned begin = blockIdx.z * slice, end = min(rows, begin + slice);
    float sums[2][2] = {}, of_bias = 0.0f;
    for (unsigned row = begin; row < end; row += TILE) {
        load(sg, grad, row, first_output, end, outputs);
        load(sx, xs, row, first_input, end, inputs);
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < TILE; ++i) {
            float g0 = sg[i][y], g1 = sg[i][y + HALF], x0 = sx[i][x], x1 = sx[i][x + HALF];
            sums[0][0] += g0 * x0;
            sums[0][1] += g0 * x1;
            sums[1][0] += g1 * x0;
            sums[1][1] += g1 * x1;
        }
        if (blockIdx.x == 0 && threadIdx.x < TILE)
            for (unsigned i = 0; i < TILE; ++i) of_bias += sg[i][threadIdx.x];
        __syncthreads();
    }
    out += (unsigned long long)blockIdx.z * outputs * (inputs + 1);
    for (unsigned i = 0; i < 2; ++i)
        for (unsigned j = 0; j < 2; ++j) {
            unsigned output = first_output + y + i * HALF, input = first_input + x + j * HALF;
            if (output < outputs && input < inputs) out[output * inputs + input] = sums[i][j];
        }
    unsigned output = first_output + threadIdx.x;
    if (blockIdx.x == 0 && threadIdx.x < TILE && output < outputs) out[outputs * inputs + output] = of_bias;
}

// sum_s x_si of a few slices, in their order.
extern "C" __global__ void add_slices(const float *slices, float *sums, unsigned count, unsigned len) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len) return;
    float sum = 0.0f;
    for (unsigned slice = 0; slice < count; ++slice) sum += slices[(unsigned long long)slice * len + i];
    sums[i] = sum;
}
