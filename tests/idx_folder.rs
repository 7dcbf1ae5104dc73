//! Small datasets as folders of IDX files.

use crate::support::Sandbox;

/// The content of the four files.
pub(crate) struct IdxFolder {
    pub(crate) train: u32,
    pub(crate) test: u32,
    pub(crate) height: u32,
    pub(crate) width: u32,
    /// The label of image `index`.
    pub(crate) label: fn(u32) -> u8,
}

impl Default for IdxFolder {
    fn default() -> Self {
        Self { train: 40, test: 20, height: 28, width: 28, label: |index| (index % 10) as u8 }
    }
}

impl IdxFolder {
    /// Writes the files into the sandbox.
    pub(crate) fn write(&self, sandbox: &Sandbox, name: &str) {
        for (set, count) in [("train", self.train), ("t10k", self.test)] {
            let images = idx(&[0x803, count, self.height, self.width], self.pixels(count));
            let labels = idx(&[0x801, count], (0..count).map(self.label));
            sandbox.write(&format!("{name}/{set}-images-idx3-ubyte"), images);
            sandbox.write(&format!("{name}/{set}-labels-idx1-ubyte"), labels);
        }
    }

    /// Every image differs.
    fn pixels(&self, count: u32) -> impl Iterator<Item = u8> {
        (0..count * self.height * self.width).map(|at| (at * 37 / 11) as u8)
    }
}

fn idx(header: &[u32], body: impl Iterator<Item = u8>) -> Vec<u8> {
    header.iter().flat_map(|word| word.to_be_bytes()).chain(body).collect()
}
