// Attention over few tokens: a block computes one head of one sample in its shared memory.
#include "random.cuh"
#include "reduce.cuh"

struct Attention {
    unsigned tokens, queries, heads, head_dim;
    unsigned q_row, q_sample;    // strides from a query to the next, and from a sample's queries to the next sample's
    unsigned kv_row, kv_sample;  // the same for keys and values
    unsigned k_first, v_first;   // offsets of keys and values in a row
    float scale;
    unsigned draws;  // whether dropout applies to the weights
};

// A block's head and sample share one dimension of the grid, because the others are limited to 65,535.
__device__ inline unsigned head_of(const Attention &a) { return blockIdx.x % a.heads; }
__device__ inline unsigned sample_of(const Attention &a) { return blockIdx.x / a.heads; }

// Loads the rows of a head. A row takes one more number than it has: threads that read a column have no bank conflicts.
__device__ inline void load(float *room, const float *from, unsigned rows, unsigned row, unsigned width) {
    // Several loads in flight hide their latency.
#pragma unroll 4
    for (unsigned i = threadIdx.x; i < rows * width; i += blockDim.x)
        room[i / width * (width + 1) + i % width] = from[(unsigned long long)(i / width) * row + i % width];
}

__device__ inline float dot(const float *xs, const float *ys, unsigned len) {
    float total = 0.0f;
    for (unsigned i = 0; i < len; ++i) total += xs[i] * ys[i];
    return total;
}

// softmax(scale Q K') into `weights` (queries, tokens), a warp a row.
__device__ inline void weigh(float *weights, const float *q, const float *k, const float *bias, const Attention &a) {
    unsigned width = a.head_dim + 1;
    for (unsigned i = threadIdx.x; i < a.queries * a.tokens; i += blockDim.x) {
        unsigned query = i / a.tokens, token = i % a.tokens;
        weights[i] = dot(q + query * width, k + token * width, a.head_dim) * a.scale + (bias ? bias[token] : 0.0f);
    }
    __syncthreads();
    unsigned lane = threadIdx.x % WARP;
    for (unsigned query = threadIdx.x / WARP; query < a.queries; query += blockDim.x / WARP) {
        float *row = weights + query * a.tokens;
        float most = -INFINITY, total = 0.0f;
        for (unsigned i = lane; i < a.tokens; i += WARP) most = fmaxf(most, row[i]);
        most = warp_max(most);
        for (unsigned i = lane; i < a.tokens; i += WARP) total += row[i] = expf(row[i] - most);
        total = warp_sum(total);
        for (unsigned i = lane; i < a.tokens; i += WARP) row[i] /= total;
    }
    __syncthreads();
}

// The dropout mask of a weight, drawn in the order (queries, heads, keys) of a sample.
__device__ inline float weight_mask(const Attention &a, const Draw &draw, const Clock *clock, unsigned i) {
    if (!a.draws) return 1.0f;
    unsigned query = i / a.tokens, token = i % a.tokens;
    return mask(draw, clock, sample_of(a), (query * a.heads + head_of(a)) * a.tokens + token);
}

extern "C" __global__ void attention(const float *q, const float *kv, const float *bias, float *ys, Attention a,
                                     Draw draw, const Clock *clock) {
    extern __shared__ float room[];
    unsigned head = head_of(a), sample = sample_of(a), width = a.head_dim + 1;
    float *sq = room, *sk = sq + a.queries * width, *sv = sk + a.tokens * width, *sw = sv + a.tokens * width;
    const float *rows = kv + (unsigned long long)sample * a.kv_sample + head * a.head_dim;
    load(sq, q + (unsigned long long)sample * a.q_sample + head * a.head_dim, a.queries, a.q_row, a.head_dim);
    load(sk, rows + a.k_first, a.tokens, a.kv_row, a.head_dim);
    load(sv, rows + a.v_first, a.tokens, a.kv_row, a.head_dim);
    __syncthreads();
    weigh(sw, sq, sk, bias ? bias + sample * a.tokens : nullptr, a);
    if (a.draws) {
        for (unsigned i = threadIdx.x; i < a.queries * a.tokens; i += blockDim.x)
            sw[i] *= weight_mask(a, draw, clock, i);
        __syncthreads();
    }
    unsigned dim = a.heads * a.head_dim;
    for (unsigned i = threadIdx.x; i < a.queries * a.head_dim; i += blockDim.x) {
        unsigned query = i / a.head_dim, d = i % a.head_dim;
        float total = 0.0f;
        for (unsigned token = 0; token < a.tokens; ++token) total += sw[query * a.tokens + token] * sv[token * width + d];
        ys[((unsigned long long)sample * a.queries + query) * dim + head * a.head_dim + d] = total;
    }
}

// With P the weights, M their mask and W = P M: dV = W' dY; dP = (dY V') M; dS = P (dP - sum_k dP P);
// dQ = scale dS K; dK = scale dS' Q. The other rows of all `q_rows` queries get zeros.
extern "C" __global__ void attention_gradient(const float *q, const float *kv, const float *bias, const float *grad,
                                              float *grad_q, float *grad_kv, unsigned q_rows, Attention a, Draw draw,
                                              const Clock *clock) {
    extern __shared__ float room[];
    unsigned head = head_of(a), sample = sample_of(a), width = a.head_dim + 1, dim = a.heads * a.head_dim;
    float *sq = room, *sk = sq + a.queries * width, *sv = sk + a.tokens * width, *sg = sv + a.tokens * width;
    float *sp = sg + a.queries * width, *sd = sp + a.queries * a.tokens, *sm = sd + a.queries * a.tokens;
    unsigned long long q_first = (unsigned long long)sample * a.q_sample + head * a.head_dim;
    unsigned long long kv_first = (unsigned long long)sample * a.kv_sample + head * a.head_dim;
    load(sq, q + q_first, a.queries, a.q_row, a.head_dim);
    load(sk, kv + kv_first + a.k_first, a.tokens, a.kv_row, a.head_dim);
    load(sv, kv + kv_first + a.v_first, a.tokens, a.kv_row, a.head_dim);
    load(sg, grad + (unsigned long long)sample * a.queries * dim + head * a.head_dim, a.queries, dim, a.head_dim);
    __syncthreads();
    weigh(sp, sq, sk, bias ? bias + sample * a.tokens : nullptr, a);
    for (unsigned i = threadIdx.x; i < a.queries * a.tokens; i += blockDim.x) {
        unsigned query = i / a.tokens, token = i % a.tokens;
        sm[i] = weight_mask(a, draw, clock, i);
        sd[i] = dot(sg + query * width, sv + token * width, a.head_dim) * sm[i];
    }
    __syncthreads();
    // Values first: dV needs P, which the gradient of the scores then overwrites.
    for (unsigned i = threadIdx.x; i < a.tokens * a.head_dim; i += blockDim.x) {
        unsigned token = i / a.head_dim, d = i % a.head_dim;
        float total = 0.0f;
        for (unsigned query = 0; query < a.queries; ++query) {
            unsigned at = query * a.tokens + token;
            total += sp[at] * sm[at] * sg[query * width + d];
        }
        grad_kv[kv_first + (unsigned long long)token * a.kv_row + a.v_first + d] = total;
    }
    __syncthreads();
    unsigned lane = threadIdx.x % WARP;
    for (unsigned query = threadIdx.x / WARP; query < a.queries; query += blockDim.x / WARP) {
        float *p = sp + query * a.tokens, *d = sd + query * a.tokens, along = 0.0f;
        for (unsigned i = lane; i < a.tokens; i += WARP) along += d[i] * p[i];
        along = warp_sum(along);
        for (unsigned i = lane; i < a.tokens; i += WARP) p[i] = a.scale * p[i] * (d[i] - along);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < q_rows * a.head_dim; i += blockDim.x) {
        unsigned query = i / a.head_dim, d = i % a.head_dim;
        float total = 0.0f;
        if (query < a.queries)
            for (unsigned token = 0; token < a.tokens; ++token)
                total += sp[query * a.tokens + token] * sk[token * width + d];
        grad_q[q_first + (unsigned long long)query * a.q_row + d] = total;
    }
    for (unsigned i = threadIdx.x; i < a.tokens * a.head_dim; i += blockDim.x) {
        unsigned token = i / a.head_dim, d = i % a.head_dim;
        float total = 0.0f;
        for (unsigned query = 0; query < a.queries; ++query)
            total += sp[query * a.tokens + token] * sq[query * width + d];
        grad_kv[kv_first + (unsigned long long)token * a.kv_row + a.k_first + d] = total;
    }
}
