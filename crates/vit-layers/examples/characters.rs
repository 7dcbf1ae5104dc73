//! Trains a causal character model: each token attends to itself and earlier ones, and predicts the next.
//!
//! `cargo run -p vit-layers --example characters` prints the loss of every fiftieth step, then how the model continues
//! a few letters. It fails if the loss stays above 0.4, and takes some seconds.
//!
//! It needs only candle and `vit-layers`.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use candle_core::{D, DType, Device, Module, Result, Tensor, Var, bail};
use candle_nn::{Embedding, Optimizer, ParamsAdamW, VarBuilder, embedding, loss};
use vit_layers::{
    AdamW, Bias, Encoder, EncoderConfig, Linear, Mode, Parameters, Pass, Random, Site, Stream,
    TokenMask,
};

/// William Blake, *The Tyger* (1794), two stanzas.
const TEXT: &str = "\
tyger tyger, burning bright, in the forests of the night; \
what immortal hand or eye, could frame thy fearful symmetry? \
in what distant deeps or skies, burnt the fire of thine eyes? \
on what wings dare he aspire? what the hand, dare seize the fire? ";

const TOKENS: usize = 48;
const DIM: usize = 64;
const BATCH: usize = 16;
const STEPS: u32 = 200;
const WANTED: f32 = 0.4;

fn main() -> Result<()> {
    let alphabet = Alphabet::of(TEXT);
    let parameters = Parameters::seeded(42);
    let model = Model::new(alphabet.len(), &parameters.builder(DType::F32, &Device::Cpu))?;
    let vars: Vec<Var> = parameters.sorted().into_iter().map(|(_name, var)| var).collect();
    let adam = ParamsAdamW { lr: 2e-3, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vars, adam)?;

    let random = Random::new(42);
    let text = alphabet.numbers(TEXT);
    let mut last = f32::INFINITY;
    for step in 1..=STEPS {
        let batch = Excerpts::new(&text, &mut random.stream(Site::named("excerpts"), step))?;
        let pass = Pass::from(Mode::Train(random.at_step(step.into()))).masked(&batch.mask);
        let loss = batch.loss(&model.forward(&batch.symbols, pass)?)?;
        optimizer.backward_step(&loss)?;
        last = loss.to_scalar()?;
        if step % 50 == 0 {
            println!("step {step}: loss {last:.3}");
        }
    }
    for begun in ["tyger", "what im", "on what "] {
        println!("{begun:?} continues as {:?}", model.continued(&alphabet, begun, 40)?);
    }
    if last > WANTED {
        bail!("expected a loss of at most {WANTED}, got {last:.3}");
    }
    Ok(())
}

/// A character embedding, a causal encoder with rotary positions, and a head that scores the next character.
struct Model {
    symbols: Embedding,
    encoder: Encoder,
    head: Linear,
}

impl Model {
    fn new(symbols: usize, vb: &VarBuilder) -> Result<Self> {
        let config = EncoderConfig { rotary: Some(10_000.0), ..EncoderConfig::new(DIM, 2, 4) };
        Ok(Self {
            symbols: embedding(symbols, DIM, vb.pp("symbols"))?,
            encoder: Encoder::new(&config, vb)?,
            head: Linear::new(DIM, symbols, Bias::Yes, &vb.pp("head"))?,
        })
    }

    /// `symbols` (batch, tokens) -> (batch, tokens, alphabet)
    fn forward(&self, symbols: &Tensor, pass: Pass) -> Result<Tensor> {
        let xs = self.symbols.forward(symbols)?; // (batch, tokens, dim)
        self.head.forward(&self.encoder.forward(&xs, pass.causal())?)
    }

    /// The likeliest continuation of `text`.
    fn continued(&self, alphabet: &Alphabet, text: &str, count: usize) -> Result<String> {
        let mut symbols = alphabet.numbers(text);
        for _ in 0..count {
            let context = &symbols[symbols.len().saturating_sub(TOKENS)..];
            let context = Tensor::new(context, &Device::Cpu)?.unsqueeze(0)?;
            let logits = self.forward(&context, Mode::Eval.into())?;
            let next = logits.get(0)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
            symbols.extend(next.last());
        }
        Ok(symbols.iter().map(|&symbol| alphabet.0[symbol as usize]).collect())
    }
}

/// The characters of a text, sorted.
struct Alphabet(Vec<char>);

impl Alphabet {
    fn of(text: &str) -> Self {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        Self(characters)
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn numbers(&self, text: &str) -> Vec<u32> {
        let number = |c| self.0.binary_search(&c).expect("a character of the alphabet") as u32;
        text.chars().map(number).collect()
    }
}

/// A batch of excerpts of different lengths, padded to one length.
struct Excerpts {
    /// (batch, tokens)
    symbols: Tensor,
    /// The next character of each token, (batch * tokens).
    next: Tensor,
    mask: TokenMask,
}

impl Excerpts {
    fn new(text: &[u32], stream: &mut Stream) -> Result<Self> {
        let (mut symbols, mut next, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let length = TOKENS / 2 + stream.below(TOKENS as u32 / 2) as usize + 1;
            let start = stream.below((text.len() - length) as u32) as usize;
            let padded = |from: usize| {
                let mut excerpt = text[from..from + length].to_vec();
                excerpt.resize(TOKENS, 0);
                excerpt
            };
            symbols.append(&mut padded(start));
            next.append(&mut padded(start + 1));
            lengths.push(length);
        }
        Ok(Self {
            symbols: Tensor::from_vec(symbols, (BATCH, TOKENS), &Device::Cpu)?,
            next: Tensor::from_vec(next, BATCH * TOKENS, &Device::Cpu)?,
            mask: TokenMask::from_lengths(&lengths, TOKENS)?,
        })
    }

    /// The mean cross entropy over all tokens but padding.
    fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        let there = self.mask.to_tensor(DType::U8, &Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
        let places =
            (0_u32..).zip(there).filter_map(|(place, there)| (there != 0).then_some(place));
        let places = Tensor::from_iter(places, &Device::Cpu)?;
        let logits = logits.flatten(0, 1)?.index_select(&places, 0)?;
        loss::cross_entropy(&logits, &self.next.index_select(&places, 0)?)
    }
}
