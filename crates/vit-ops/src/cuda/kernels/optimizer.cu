// The end of a training step, over all parameters at once: checks the gradients, takes Adam's step, updates the tally.
#include "random.cuh"
#include "reduce.cuh"

// A parameter with its gradient, moments and EMA. A launch takes as many as its arguments have room for.
struct Slot {
    float *parameter;
    const float *gradient;
    float *m, *v;
    float *average;  // EMA, or null
    unsigned len;
    unsigned row;  // in the updates
};

constexpr unsigned SLOTS = 64;

struct Slots {
    Slot slot[SLOTS];
};

// The numbers of one step; the host computes them in double precision, as PyTorch does.
struct Update {
    float first, beta2, second, step_size, second_correction, eps, gradient_decay, shrink;
    float average_share;
};

// The first non-finite value: the step in the high half, in the low half 0 for the loss, else 1 + the parameter. All
// ones if there is none.
typedef unsigned long long Fault;
constexpr Fault NONE = ~0ull;

struct Tally {
    double loss_sum;
    unsigned long long correct;
    Fault fault;
};

// Finds non-finite gradients and loss, and sums squares for the norm: squares (slots, gridDim.x). A fault is permanent:
// from its step on, no parameter changes.
extern "C" __global__ void sum_and_check_gradients(Slots slots, unsigned first_slot, const float *loss, float scale,
                                                   double *squares, Tally *tally, const Clock *clock) {
    __shared__ double room[32];
    Fault step = (Fault)clock->step << 32;
    if (tally->fault < step) return;  // keeps the squares of the faulty step
    const Slot &slot = slots.slot[blockIdx.y];
    double total = 0.0;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < slot.len; i += gridDim.x * blockDim.x) {
        double g = (double)slot.gradient[i] * scale;
        total += g * g;
    }
    total = block_sum(total, room);
    if (threadIdx.x != 0) return;
    squares[(first_slot + blockIdx.y) * gridDim.x + blockIdx.x] = total;
    if (!isfinite(total)) atomicMin(&tally->fault, step | (1 + first_slot + blockIdx.y));
    if (first_slot + blockIdx.y + blockIdx.x == 0 && !isfinite(*loss)) atomicMin(&tally->fault, step);
}

// m = m + (1 - b1)(g - m), v = b2 v + (1 - b2) g^2, p = p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps); then
// the EMA follows the parameter. Updates are (rows, steps). If `squares` is not null, it holds `parts` of the squared
// norm, and gradients are clipped to `norm`.
extern "C" __global__ void adam(Slots slots, const Update *updates, unsigned steps, float scale,
                                const double *squares, unsigned parts, double norm, const Tally *tally,
                                const Clock *clock) {
    __shared__ double room[32];
    if (tally->fault != NONE) return;
    if (squares) {
        double total = 0.0;
        for (unsigned i = threadIdx.x; i < parts; i += blockDim.x) total += squares[i];
        // PyTorch's 1e-6 avoids division by a norm of zero.
        double cut = norm / (sqrt(block_sum(total, room)) + 1e-6);
        if (cut < 1.0) scale *= (float)cut;
    }
    const Slot &slot = slots.slot[blockIdx.y];
    const Update u = updates[(unsigned long long)slot.row * steps + clock->index];
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < slot.len; i += gridDim.x * blockDim.x) {
        float p = slot.parameter[i], g = slot.gradient[i] * scale + u.gradient_decay * p;
        float m = slot.m[i] + u.first * (g - slot.m[i]);
        float v = u.beta2 * slot.v[i] + u.second * g * g;
        p = u.shrink * p - u.step_size * (m / (sqrtf(v) / u.second_correction + u.eps));
        slot.m[i] = m;
        slot.v[i] = v;
        slot.parameter[i] = p;
        if (slot.average) slot.average[i] += u.average_share * (p - slot.average[i]);
    }
}

// Adds a batch's loss and its number of correct predictions. Ties go to the first logit; NaN never wins. The last batch
// of a step advances the clock.
extern "C" __global__ void count(const float *loss, const float *logits, const unsigned *labels, unsigned batch,
                                 unsigned classes, unsigned ticks, Tally *tally, Clock *clock) {
    __shared__ unsigned room[32];
    unsigned right = 0;
    for (unsigned row = threadIdx.x; row < batch; row += blockDim.x) {
        const float *xs = logits + (unsigned long long)row * classes;
        unsigned best = 0;
        for (unsigned c = 1; c < classes; ++c)
            if (xs[c] > xs[best] || (isnan(xs[best]) && !isnan(xs[c]))) best = c;
        right += best == labels[row];
    }
    right = block_sum(right, room);
    if (threadIdx.x != 0) return;
    if (tally->fault >= (Fault)clock->step << 32) {
        tally->loss_sum += *loss;
        tally->correct += right;
    }
    clock->step += ticks;
    clock->index += ticks;
}
