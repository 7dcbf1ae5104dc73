//! Each operation on one thread at a shard's shapes: `cargo bench -p vit-ops --profile dev`

use std::fmt;
use std::hint::black_box;

use candle_core::{DType, Device, Result, Tensor, Var};
use divan::Bencher;
use vit_ops::{Activation, Attend, DropRate, DropoutSource, Queries};
use vit_random::{Random, Site};

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SITE: Site = Site::named("bench");

fn main() {
    divan::main();
}

/// A quarter of a batch.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    batch: usize,
    tokens: usize,
    /// Numbers in a patch.
    pixels: usize,
    dim: usize,
    heads: usize,
    mlp_dim: usize,
    classes: usize,
}

/// `notebook` and `shallow`, 64 images a batch.
const PRESETS: Shape = Shape {
    name: "presets",
    batch: 16,
    tokens: 16,
    pixels: 49,
    dim: 32,
    heads: 4,
    mlp_dim: 128,
    classes: 10,
};

/// ViT-Ti/16 at 224x224 px, 8 images a batch.
const TINY: Shape = Shape {
    name: "ViT-Ti/16",
    batch: 2,
    tokens: 197,
    pixels: 768,
    dim: 192,
    heads: 3,
    mlp_dim: 768,
    classes: 1000,
};

/// The timed part of an operation.
#[derive(Clone, Copy)]
enum Pass {
    /// Evaluation.
    Forward,
    /// Training, with every gradient.
    ForwardAndBackward,
}

#[derive(Clone, Copy)]
struct Case {
    shape: Shape,
    pass: Pass,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pass = match self.pass {
            Pass::Forward => "forward",
            Pass::ForwardAndBackward => "forward and backward",
        };
        write!(f, "{}, {pass}", self.shape.name)
    }
}

const CASES: [Case; 4] = [
    Case { shape: PRESETS, pass: Pass::Forward },
    Case { shape: PRESETS, pass: Pass::ForwardAndBackward },
    Case { shape: TINY, pass: Pass::Forward },
    Case { shape: TINY, pass: Pass::ForwardAndBackward },
];

impl Case {
    /// Normal numbers; a variable if there is a backward pass.
    fn input(self, dims: &[usize]) -> Tensor {
        let mut stream = Random::new(1).stream(SITE, 0);
        let numbers: Vec<f32> =
            (0..dims.iter().product()).map(|_| stream.normal() as f32).collect();
        let tensor = Tensor::from_vec(numbers, dims, &Device::Cpu).expect("as many as dims say");
        match self.pass {
            Pass::Forward => tensor,
            Pass::ForwardAndBackward => {
                Var::from_tensor(&tensor).expect("a plain tensor").as_tensor().clone()
            }
        }
    }

    /// The shard's tokens of this width.
    fn tokens(self, width: usize) -> Tensor {
        self.input(&[self.shape.batch, self.shape.tokens, width])
    }

    /// Times an operation with an output gradient of ones.
    fn time(self, bencher: Bencher, op: impl Fn() -> Result<Tensor> + Sync) {
        bencher.bench_local(|| {
            vit_ops::serial(|| {
                let ys = op().expect("the shapes fit");
                if matches!(self.pass, Pass::ForwardAndBackward) {
                    black_box(ys.backward().expect("every operation has a backward pass"));
                }
                black_box(ys)
            })
        });
    }

    fn time_linear(self, bencher: Bencher, inputs: usize, outputs: usize) {
        let (xs, weight) = (self.tokens(inputs), self.input(&[outputs, inputs]));
        let bias = self.input(&[outputs]);
        self.time(bencher, || vit_ops::linear(&xs, &weight, Some(&bias)));
    }

    fn time_attention(self, bencher: Bencher, queries: Queries) {
        let Shape { dim, heads, .. } = self.shape;
        let qkv = self.tokens(3 * dim);
        let scale = ((dim / heads) as f64).powf(-0.5);
        let dropout = DropoutSource { rate: rate(), site: SITE, random: Random::new(1) };
        let dropout = matches!(self.pass, Pass::ForwardAndBackward).then_some(dropout);
        let attend = Attend { dropout, ..Attend::new(heads, scale) };
        self.time(bencher, || vit_ops::self_attention(&qkv, queries, &attend));
    }
}

fn rate() -> DropRate {
    DropRate::new(0.2).expect("a probability")
}

#[divan::bench(args = CASES)]
fn linear_embedding(bencher: Bencher, case: Case) {
    case.time_linear(bencher, case.shape.pixels, case.shape.dim);
}

#[divan::bench(args = CASES)]
fn linear_qkv(bencher: Bencher, case: Case) {
    case.time_linear(bencher, case.shape.dim, 3 * case.shape.dim);
}

#[divan::bench(args = CASES)]
fn linear_projection(bencher: Bencher, case: Case) {
    case.time_linear(bencher, case.shape.dim, case.shape.dim);
}

#[divan::bench(args = CASES)]
fn linear_fc1(bencher: Bencher, case: Case) {
    case.time_linear(bencher, case.shape.dim, case.shape.mlp_dim);
}

#[divan::bench(args = CASES)]
fn linear_activation_fc1(bencher: Bencher, case: Case) {
    let (dim, mlp_dim) = (case.shape.dim, case.shape.mlp_dim);
    let (xs, weight) = (case.tokens(dim), case.input(&[mlp_dim, dim]));
    let bias = case.input(&[mlp_dim]);
    case.time(bencher, || vit_ops::linear_activation(&xs, &weight, &bias, Activation::Relu));
}

#[divan::bench(args = CASES)]
fn linear_fc2(bencher: Bencher, case: Case) {
    case.time_linear(bencher, case.shape.mlp_dim, case.shape.dim);
}

#[divan::bench(args = CASES)]
fn self_attention(bencher: Bencher, case: Case) {
    case.time_attention(bencher, Queries::All);
}

#[divan::bench(args = CASES)]
fn self_attention_of_the_first(bencher: Bencher, case: Case) {
    case.time_attention(bencher, Queries::First);
}

#[divan::bench(args = CASES)]
fn layer_norm(bencher: Bencher, case: Case) {
    let dim = case.shape.dim;
    let (xs, weight, bias) = (case.tokens(dim), case.input(&[dim]), case.input(&[dim]));
    case.time(bencher, || vit_ops::layer_norm(&xs, &weight, &bias, 1e-5));
}

#[divan::bench(args = CASES)]
fn relu(bencher: Bencher, case: Case) {
    let xs = case.tokens(case.shape.mlp_dim);
    case.time(bencher, || Activation::Relu.forward(&xs));
}

#[divan::bench(args = CASES)]
fn gelu(bencher: Bencher, case: Case) {
    let xs = case.tokens(case.shape.mlp_dim);
    case.time(bencher, || Activation::Gelu.forward(&xs));
}

#[divan::bench(args = CASES)]
fn dropout(bencher: Bencher, case: Case) {
    let xs = case.tokens(case.shape.dim);
    case.time(bencher, || vit_ops::dropout(&xs, rate(), SITE, &Random::new(1)));
}

#[divan::bench(args = CASES)]
fn add_each(bencher: Bencher, case: Case) {
    let Shape { tokens, dim, .. } = case.shape;
    let (xs, shared) = (case.tokens(dim), case.input(&[tokens, dim]));
    case.time(bencher, || vit_ops::add_each(&xs, &shared));
}

#[divan::bench(args = CASES)]
fn softmax(bencher: Bencher, case: Case) {
    let logits = case.input(&[case.shape.batch, case.shape.classes]);
    case.time(bencher, || vit_ops::softmax(&logits));
}

#[divan::bench(args = CASES)]
fn cross_entropy_sum(bencher: Bencher, case: Case) {
    let logits = case.input(&[case.shape.batch, case.shape.classes]);
    let labels = Tensor::zeros(case.shape.batch, DType::U32, &Device::Cpu).expect("a small tensor");
    case.time(bencher, || vit_ops::cross_entropy_sum(&logits, &labels));
}
