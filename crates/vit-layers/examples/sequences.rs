//! Trains an encoder on padded sequences of different lengths: does the first symbol occur again?
//!
//! `cargo run -p vit-layers --example sequences` prints the loss of every hundredth step, and the accuracy on unseen
//! sequences. It fails below 95 %, and takes some seconds.
//!
//! It needs only candle and `vit-layers`.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use candle_core::{D, DType, Device, Module, Result, Tensor, Var, bail};
use candle_nn::{Embedding, Init, Optimizer, ParamsAdamW, VarBuilder, embedding, loss};
use vit_layers::{
    AdamW, Bias, Encoder, EncoderConfig, Linear, Mode, Parameters, Pass, Random, Site, Stream,
    TokenMask,
};

/// Symbols are 1 to 12; 0 is padding.
const SYMBOLS: u32 = 12;
const SHORTEST: u32 = 4;
const TOKENS: usize = 10;
const DIM: usize = 32;

fn main() -> Result<()> {
    let parameters = Parameters::seeded(42);
    let model = Model::new(&parameters.builder(DType::F32, &Device::Cpu))?;
    let vars: Vec<Var> = parameters.sorted().into_iter().map(|(_name, var)| var).collect();
    let adam = ParamsAdamW { lr: 2e-3, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vars, adam)?;

    let random = Random::new(42);
    for step in 1..=600_u32 {
        let sequences = Sequences::new(64, &mut random.stream(Site::named("train"), step))?;
        let logits = model.forward(&sequences, Mode::Train(random.at_step(step.into())))?;
        let loss = loss::cross_entropy(&logits, &sequences.labels)?;
        optimizer.backward_step(&loss)?;
        if step % 100 == 0 {
            println!("step {step}: loss {:.4}", loss.to_scalar::<f32>()?);
        }
    }

    let unseen = Sequences::new(1_000, &mut random.stream(Site::named("test"), 0))?;
    let answers = model.forward(&unseen, Mode::Eval)?.argmax(D::Minus1)?;
    let right = answers.eq(&unseen.labels)?.to_dtype(DType::F32)?.mean_all()?;
    let accuracy = 100.0 * right.to_scalar::<f32>()?;
    println!("{accuracy:.1} % of 1,000 unseen sequences");
    if accuracy < 95.0 {
        bail!("expected at least 95 %, got {accuracy:.1} %");
    }
    Ok(())
}

/// Symbol and position embeddings, an encoder, and a two-class head on the first token.
struct Model {
    symbols: Embedding,
    places: Tensor,
    encoder: Encoder,
    head: Linear,
}

impl Model {
    fn new(vb: &VarBuilder) -> Result<Self> {
        let normal = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            symbols: embedding(SYMBOLS as usize + 1, DIM, vb.pp("symbols"))?,
            places: vb.get_with_hints((TOKENS, DIM), "places", normal)?,
            encoder: Encoder::new(&EncoderConfig::new(DIM, 2, 4), vb)?,
            head: Linear::new(DIM, 2, Bias::Yes, &vb.pp("head"))?,
        })
    }

    fn forward(&self, sequences: &Sequences, mode: Mode) -> Result<Tensor> {
        let xs = self.symbols.forward(&sequences.symbols)?; // (batch, tokens, dim)
        let xs = xs.broadcast_add(&self.places)?;
        let pass = Pass::from(mode).masked(&sequences.mask);
        let first = self.encoder.forward_first(&xs, pass)?.squeeze(1)?; // (batch, dim)
        self.head.forward(&first) // (batch, 2)
    }
}

/// A batch of sequences. In half of them the first symbol occurs again.
struct Sequences {
    /// u32 (batch, tokens)
    symbols: Tensor,
    mask: TokenMask,
    /// u32 (batch)
    labels: Tensor,
}

impl Sequences {
    fn new(batch: usize, stream: &mut Stream) -> Result<Self> {
        let (mut symbols, mut lengths, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..batch {
            let length = (SHORTEST + stream.below(TOKENS as u32 - SHORTEST + 1)) as usize;
            let first = stream.below(SYMBOLS);
            // Any symbol but the first.
            let mut sequence: Vec<u32> = (0..length)
                .map(|_| (first + 1 + stream.below(SYMBOLS - 1)) % SYMBOLS + 1)
                .collect();
            sequence[0] = first + 1;
            let again = stream.below(2);
            if again == 1 {
                sequence[1 + stream.below(length as u32 - 1) as usize] = first + 1;
            }
            sequence.resize(TOKENS, 0);
            symbols.append(&mut sequence);
            lengths.push(length);
            labels.push(again);
        }
        Ok(Self {
            symbols: Tensor::from_vec(symbols, (batch, TOKENS), &Device::Cpu)?,
            mask: TokenMask::from_lengths(&lengths, TOKENS)?,
            labels: Tensor::from_vec(labels, batch, &Device::Cpu)?,
        })
    }
}
