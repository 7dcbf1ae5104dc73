//! Trains an encoder to detect whether a sequence's first symbol occurs again, and fails below 95 % on unseen
//! sequences. No token can solve this without attending to the others.

use std::process::ExitCode;

use candle_core::{D, DType, Device, Module, Result, Tensor, Var};
use candle_nn::{Embedding, Init, Optimizer, ParamsAdamW, VarBuilder, embedding, loss};
use vit_layers::{
    AdamW, Bias, DropoutRates, Encoder, EncoderConfig, Linear, Mode, Parameters, Random,
};

const SYMBOLS: u32 = 12;
const TOKENS: usize = 8;
const DIM: usize = 32;
const BATCH: usize = 64;
const STEPS: u64 = 800;
const WANTED: f32 = 0.95;

fn main() -> ExitCode {
    match accuracy_after_training() {
        Ok(accuracy) => {
            println!("{:.1} % of 2,000 unseen sequences", 100.0 * accuracy);
            if accuracy > WANTED { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn accuracy_after_training() -> Result<f32> {
    let parameters = Parameters::seeded(42);
    let model = Model::new(&parameters.builder(DType::F32, &Device::Cpu))?;
    let vars: Vec<Var> = parameters.sorted().into_iter().map(|(_name, var)| var).collect();
    let adam = ParamsAdamW { lr: 2e-3, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vars, adam)?;

    let mut generator = Generator(1);
    for step in 0..STEPS {
        let (symbols, labels) = generator.batch(BATCH)?;
        let mode = Mode::Train(Random::new(42).at_step(step));
        let logits = model.forward(&symbols, mode)?;
        optimizer.backward_step(&loss::cross_entropy(&logits, &labels)?)?;
    }

    let (symbols, labels) = generator.batch(2_000)?;
    let answers = model.forward(&symbols, Mode::Eval)?.argmax(D::Minus1)?;
    answers.eq(&labels)?.to_dtype(DType::F32)?.mean_all()?.to_scalar()
}

/// Embeds symbols and positions, encodes, and classifies the first token.
struct Model {
    symbols: Embedding,
    places: Tensor,
    encoder: Encoder,
    head: Linear,
}

impl Model {
    fn new(vb: &VarBuilder) -> Result<Self> {
        let config = EncoderConfig { dropout: DropoutRates::all(0.05), ..EncoderConfig::new(DIM, 2, 4) };
        let normal = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            symbols: embedding(SYMBOLS as usize, DIM, vb.pp("symbols"))?,
            places: vb.get_with_hints((TOKENS, DIM), "places", normal)?,
            encoder: Encoder::new(&config, vb)?,
            head: Linear::new(DIM, 2, Bias::Yes, &vb.pp("head"))?,
        })
    }

    /// (batch, tokens) -> (batch, 2)
    fn forward(&self, symbols: &Tensor, mode: Mode) -> Result<Tensor> {
        let xs = self.symbols.forward(symbols)?.broadcast_add(&self.places)?; // (batch, tokens, dim)
        let first = self.encoder.forward_first(&xs, mode)?.squeeze(1)?; // (batch, dim)
        self.head.forward(&first)
    }
}

/// Random sequences, half of which repeat the first symbol once (SplitMix64).
struct Generator(u64);

impl Generator {
    fn batch(&mut self, batch: usize) -> Result<(Tensor, Tensor)> {
        let (mut symbols, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..batch {
            let first = self.below(SYMBOLS);
            let others = (1..TOKENS).map(|_| (first + 1 + self.below(SYMBOLS - 1)) % SYMBOLS);
            let mut sequence: Vec<u32> = others.collect();
            let again = self.below(2);
            if again == 1 {
                sequence[self.below(TOKENS as u32 - 1) as usize] = first;
            }
            symbols.push(first);
            symbols.append(&mut sequence);
            labels.push(again);
        }
        let symbols = Tensor::from_vec(symbols, (batch, TOKENS), &Device::Cpu)?;
        Ok((symbols, Tensor::from_vec(labels, batch, &Device::Cpu)?))
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % u64::from(bound)) as u32
    }
}
