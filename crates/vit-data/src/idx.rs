//! The IDX format: a magic number, the dimensions, then the bytes, all big-endian.
//!
//! Nothing is allocated on the word of a header: memory grows with the bytes that really come.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// Two zero bytes, 8 for unsigned bytes, then the number of dimensions.
const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;

/// The most bytes of pixels read from one file: 4 GiB, ninety times MNIST's.
const MAX_BYTES: u64 = 1 << 32;

/// A gzipped file may unpack to so many times its size, or to so many bytes if that is more: MNIST's images have 4.7 times.
const MOST_RATIO: u64 = 16;
const FREE_BYTES: u64 = 1 << 26;

/// One of the four files of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdxFile {
    /// `train-images-idx3-ubyte`
    TrainImages,
    /// `train-labels-idx1-ubyte`
    TrainLabels,
    /// `t10k-images-idx3-ubyte`
    TestImages,
    /// `t10k-labels-idx1-ubyte`
    TestLabels,
}

impl IdxFile {
    /// The four files.
    pub const ALL: [Self; 4] =
        [Self::TrainImages, Self::TrainLabels, Self::TestImages, Self::TestLabels];

    /// The file's name where it is not gzipped.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TrainImages => "train-images-idx3-ubyte",
            Self::TrainLabels => "train-labels-idx1-ubyte",
            Self::TestImages => "t10k-images-idx3-ubyte",
            Self::TestLabels => "t10k-labels-idx1-ubyte",
        }
    }
}

/// The images of one file.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// `count * height * width` bytes, image by image and row by row.
    pub(crate) pixels: Vec<u8>,
}

/// What a file's size tells of how much is in it.
#[derive(Clone, Copy)]
enum Most {
    /// These bytes.
    Plain(u64),
    /// More than these, unpacked, are not believed.
    Packed(u64),
}

/// The dimensions that an IDX file of images announces.
#[derive(Clone, Copy)]
pub(crate) struct ImagesHeader {
    pub(crate) count: usize,
    height: usize,
    width: usize,
}

/// An opened IDX file, plain or gzipped.
pub(crate) struct IdxReader {
    path: PathBuf,
    bytes: Box<dyn Read>,
    /// How many bytes it can hold.
    most: Most,
}

impl IdxReader {
    /// Opens a dataset's file in `folder`: the plain one if both are there.
    pub(crate) fn open(folder: &Path, file: IdxFile) -> Result<Self> {
        let plain = folder.join(file.name());
        if let Some((file, len)) = open(&plain)? {
            return Ok(Self {
                path: plain,
                bytes: Box::new(BufReader::new(file)),
                most: Most::Plain(len),
            });
        }
        let packed = folder.join(format!("{}.gz", file.name()));
        let Some((file, len)) = open(&packed)? else {
            return Err(Error::Absent { path: plain });
        };
        let bytes = Box::new(MultiGzDecoder::new(file));
        let most = Most::Packed(len.saturating_mul(MOST_RATIO).max(FREE_BYTES));
        Ok(Self { path: packed, bytes, most })
    }

    /// The file's path, which ends in `.gz` where it is gzipped.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What a file of images begins with.
    pub(crate) fn images_header(&mut self) -> Result<ImagesHeader> {
        let [count, height, width] = self.header(IMAGES_MAGIC)?;
        let path = || self.path.clone();
        if count == 0 || height == 0 || width == 0 {
            return Err(Error::NoPixels { path: path(), count, height, width });
        }
        // Three factors below 2^32 fit into 128 bits.
        let len = u128::from(count) * u128::from(height) * u128::from(width);
        if len > u128::from(MAX_BYTES) || usize::try_from(len).is_err() {
            return Err(Error::TooLarge { path: path(), limit: MAX_BYTES, count, height, width });
        }
        let [count, height, width] = [count, height, width].map(|dim| dim as usize);
        Ok(ImagesHeader { count, height, width })
    }

    /// The images behind the header.
    pub(crate) fn images(&mut self, header: ImagesHeader) -> Result<Images> {
        let ImagesHeader { count, height, width } = header;
        let pixels = self.body(count * height * width, 4 * 4)?;
        Ok(Images { height, width, pixels })
    }

    /// The file as labels, each below `classes`.
    pub(crate) fn labels(&mut self, classes: usize) -> Result<Vec<u8>> {
        let [count] = self.header(LABELS_MAGIC)?;
        let labels = self.body(count as usize, 2 * 4)?;
        match labels.iter().position(|&label| usize::from(label) >= classes) {
            None => Ok(labels),
            Some(index) => {
                let got = labels[index];
                Err(Error::Label { path: self.path.clone(), classes, index, got })
            }
        }
    }

    /// The magic number, checked, and after it the dimensions, returned.
    fn header<const DIMS: usize>(&mut self, magic: u32) -> Result<[u32; DIMS]> {
        let got = self.number(0, DIMS)?;
        if got != magic {
            return Err(Error::Magic { path: self.path.clone(), expected: magic, got });
        }
        let mut dims = [0; DIMS];
        for (at, dim) in dims.iter_mut().enumerate() {
            *dim = self.number(1 + at, DIMS)?;
        }
        Ok(dims)
    }

    /// The header's number `at`, of one more than `dims`.
    fn number(&mut self, at: usize, dims: usize) -> Result<u32> {
        let mut bytes = Vec::with_capacity(4);
        self.append(&mut bytes, 4).map_err(|error| {
            self.cut(error, 4 * (1 + dims as u64), (4 * at + bytes.len()) as u64)
        })?;
        let number = bytes.try_into().expect("four bytes were appended");
        Ok(u32::from_be_bytes(number))
    }

    /// The `len` bytes after a header of `header` bytes, which must be the file's last.
    fn body(&mut self, len: usize, header: u64) -> Result<Vec<u8>> {
        let expected = header + len as u64;
        let most = match self.most {
            Most::Packed(limit) if expected > limit => {
                return Err(Error::TooPacked { path: self.path.clone(), limit, expected });
            }
            Most::Plain(most) | Most::Packed(most) => usize::try_from(most).unwrap_or(usize::MAX),
        };
        let mut body = Vec::new();
        // A header without bytes behind it costs nothing: a plain file that is shorter ends before it has given `most`.
        let appended = self.append(&mut body, len.min(most));
        let whole = appended.and_then(|()| {
            if body.len() < len { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        });
        whole.map_err(|error| self.cut(error, expected, header + body.len() as u64))?;
        // The read at the end also makes the decompressor check the sum over what it gave.
        match (&mut self.bytes).take(1).read_to_end(&mut Vec::new()) {
            Ok(0) => Ok(body),
            Ok(_) => Err(Error::TrailingBytes { path: self.path.clone(), expected }),
            Err(source) => Err(Error::Unreadable { path: self.path.clone(), source }),
        }
    }

    /// Appends the next `len` bytes to `out`. Where there are fewer, it appends these, and the error
    /// is [`ErrorKind::UnexpectedEof`], which is also the decompressor's for a stream that breaks off.
    fn append(&mut self, out: &mut Vec<u8>, len: usize) -> io::Result<()> {
        out.try_reserve_exact(len).map_err(|_| ErrorKind::OutOfMemory)?;
        let appended = (&mut self.bytes).take(len as u64).read_to_end(out)?;
        if appended < len { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The error of a file that `append` could not take `expected` bytes from, but only `got`.
    fn cut(&self, error: io::Error, expected: u64, got: u64) -> Error {
        let path = self.path.clone();
        match error.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated { path, expected, got },
            _ => Error::Unreadable { path, source: error },
        }
    }
}

/// Writes images as an IDX file.
///
/// # Panics
/// If a dimension does not fit into the header's 32 bits.
pub(crate) fn write_images(
    out: &mut dyn Write,
    (count, height, width): (usize, usize, usize),
    pixels: &[u8],
) -> io::Result<()> {
    write_header(out, IMAGES_MAGIC, &[count, height, width])?;
    out.write_all(pixels)
}

/// Writes labels as an IDX file.
///
/// # Panics
/// If there are more than the header's 32 bits can tell.
pub(crate) fn write_labels(out: &mut dyn Write, labels: &[u8]) -> io::Result<()> {
    write_header(out, LABELS_MAGIC, &[labels.len()])?;
    out.write_all(labels)
}

fn write_header(out: &mut dyn Write, magic: u32, dims: &[usize]) -> io::Result<()> {
    out.write_all(&magic.to_be_bytes())?;
    for &dim in dims {
        let dim = u32::try_from(dim).expect("a dimension below 2^32");
        out.write_all(&dim.to_be_bytes())?;
    }
    Ok(())
}

/// The file and its size, or `None` where there is no such file.
fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let opened = fs::metadata(path).and_then(|metadata| {
        // A pipe that nobody writes to would keep us waiting.
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "expected a file"));
        }
        Ok((File::open(path)?, metadata.len()))
    });
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Unreadable { path: path.to_owned(), source }),
    }
}
