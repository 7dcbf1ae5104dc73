//! Throughput in pictures/s, from a folder's files to normalised batches.
//!
//! `throughput eval FOLDER` decodes each file; `throughput train FOLDER CACHE` builds a cache, then reads random views
//! from it. Without arguments both run on a few small files. `tests/reference/bench_pictures.py` compares with
//! torchvision.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use vit_files::Digest;
use vit_pictures::{
    Cache, DecodeOptions, EvalView, Interpolation, Jitter, Picture, Policy, TrainView, decode_file,
    resize,
};
use vit_random::Random;

const SIDE: usize = 224;
const BATCH: usize = 64;
const THREADS: usize = 2;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global()?;
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let folder =
                Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/jpeg"));
            eval(folder)?;
            train(folder, Path::new("pictures.cache"))
        }
        ["eval", folder] => eval(Path::new(folder)),
        ["train", folder, cache] => train(Path::new(folder), Path::new(cache)),
        _ => Err("expected `eval FOLDER` or `train FOLDER CACHE`".into()),
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn eval(folder: &Path) -> Result<()> {
    let files = files(folder)?;
    let view = EvalView { resize: 256, crop: (SIDE, SIDE), interpolation: Interpolation::Bilinear };
    let options = DecodeOptions::default();
    measure(files.len(), |_, index| Ok(view.apply(&decode_file(&files[index], &options)?)))
}

fn train(folder: &Path, cache: &Path) -> Result<()> {
    let files = files(folder)?;
    let key = Digest::of_bytes(b"throughput");
    let start = Instant::now();
    // The shorter side is 1.5 times the view's.
    let shorter = SIDE * 3 / 2;
    let picture = |index: usize| {
        let picture = decode_file(&files[index], &DecodeOptions::default())?;
        let (height, width) = picture.size();
        let sides = [height, width].map(|side| side * shorter / height.min(width));
        Ok(Some(resize(&picture, sides.into(), Interpolation::Bicubic)))
    };
    let go = |_| ControlFlow::Continue(());
    let cache = Cache::make::<vit_pictures::Error>(cache, &key, files.len(), picture, go)?;
    println!("made the cache at {:.0} pictures/s", rate(files.len(), start));
    let view = TrainView {
        size: (SIDE, SIDE),
        crop_scale: (0.08, 1.0),
        flip: 0.5,
        jitter: Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 },
        policy: Policy::None,
        interpolation: Interpolation::Bilinear,
    };
    measure(files.len(), |epoch, index| {
        let picture = cache.get(index)?.ok_or("no picture")?;
        Ok(view.apply(&picture, Random::new(1).at_step(epoch), index as u32))
    })
}

/// Runs one epoch to warm up and measures the next, in batches.
fn measure(count: usize, view: impl Fn(u64, usize) -> Result<Picture> + Sync) -> Result<()> {
    const LEN: usize = 3 * SIDE * SIDE;
    let mut batch = vec![0.0; BATCH * LEN];
    for epoch in 0..2 {
        let start = Instant::now();
        for first in (0..count).step_by(BATCH) {
            let images = batch.par_chunks_mut(LEN).zip(first..count.min(first + BATCH));
            images.try_for_each(|(planes, index)| {
                view(epoch, index)?.write_planes(&[0.5; 3], &[0.25; 3], planes);
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            })?;
        }
        if epoch == 1 {
            println!("pictures_per_second {:.1}", rate(count, start));
        }
    }
    Ok(())
}

fn rate(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}
