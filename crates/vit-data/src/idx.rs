//! The IDX format: a magic number, the dimensions, then the bytes, all big-endian.
//!
//! Memory is allocated only for data that a file of this size can hold, whatever its header announces.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use vit_files::open_file;

use crate::error::{Error, Result};

/// Two zero bytes, the number type (8 is unsigned byte), then the number of dimensions.
const IMAGES_MAGIC: u32 = 0x0000_0803;
const COLOUR_IMAGES_MAGIC: u32 = 0x0000_0804;
const LABELS_MAGIC: u32 = 0x0000_0801;
/// The first bytes of a gzipped file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Limit of pixel bytes read from one file: 4 GiB, ninety times MNIST's.
const MAX_BYTES: u64 = 1 << 32;

/// A gzipped file may unpack to this many times its size (MNIST's images: 4.7), or to 64 MiB if that is more.
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

    /// The file's name when it is not gzipped.
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

/// The dimensions in the header of an image file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImagesHeader {
    pub(crate) count: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Whether the channels of a pixel are adjacent, instead of one plane a channel.
    pub(crate) is_interleaved: bool,
    /// Bytes before the first image.
    begin: u64,
}

impl ImagesHeader {
    /// Bytes after the header.
    pub(crate) const fn len(self) -> usize {
        self.count * self.channels * self.height * self.width
    }

    /// Channels, height and width.
    pub(crate) const fn shape(self) -> (usize, usize, usize) {
        (self.channels, self.height, self.width)
    }
}

/// Bytes before the labels.
const LABELS_HEADER: u64 = 2 * 4;

/// Bytes read at a time.
const PART: usize = 1 << 16;

/// An opened IDX file, plain or gzipped.
pub(crate) struct IdxReader {
    path: PathBuf,
    bytes: Box<dyn Read>,
    /// Size of the file on disk.
    size: u64,
    is_packed: bool,
}

impl IdxReader {
    /// Opens a file, decompressing it if it begins like gzip.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let mut file = open_file(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut first = Vec::with_capacity(GZIP.len());
        (&mut file).take(GZIP.len() as u64).read_to_end(&mut first).map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
        let is_packed = first == GZIP;
        Ok(Self { path: path.to_owned(), bytes: decoded(file, is_packed), size, is_packed })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the header of an image file.
    pub(crate) fn images_header(&mut self) -> Result<ImagesHeader> {
        let magic = self.number(0, 3)?;
        let dims: Vec<u32> = match magic {
            IMAGES_MAGIC => self.dims(3)?,
            COLOUR_IMAGES_MAGIC => self.dims(4)?,
            other => {
                return Err(self.other_kind("images: unsigned bytes in 3 or 4 dimensions", other));
            }
        };
        let is_channels = |dim: u32| dim == 1 || dim == 3;
        let (count, height, width, channels, is_interleaved) = match dims[..] {
            [count, height, width] => (count, height, width, 1, false),
            [count, height, width, channels] if is_channels(channels) => {
                (count, height, width, channels, true)
            }
            [count, channels, height, width] if is_channels(channels) => {
                (count, height, width, channels, false)
            }
            _ => {
                return Err(Error::Kind {
                    path: self.path.clone(),
                    expected: "images of 1 or 3 channels, in the last dimension or the second",
                    got: format!("dimensions {dims:?}"),
                });
            }
        };
        let path = || self.path.clone();
        if count == 0 || height == 0 || width == 0 {
            return Err(Error::NoPixels { path: path(), count, height, width });
        }
        // Three factors below 2^32 and one of two bits fit into 128 bits.
        let len = u128::from(count) * u128::from(height) * u128::from(width) * u128::from(channels);
        if len > u128::from(MAX_BYTES) || usize::try_from(len).is_err() {
            return Err(Error::TooLarge { path: path(), limit: MAX_BYTES, count, height, width });
        }
        let begin = 4 * (1 + dims.len() as u64);
        self.believe(begin + len as u64)?;
        let [count, channels, height, width] =
            [count, channels, height, width].map(|dim| dim as usize);
        Ok(ImagesHeader { count, channels, height, width, is_interleaved, begin })
    }

    /// Reads the number of labels from the header of a label file.
    pub(crate) fn labels_header(&mut self) -> Result<usize> {
        let magic = self.number(0, 1)?;
        if magic != LABELS_MAGIC {
            return Err(self.other_kind("labels: unsigned bytes in 1 dimension", magic));
        }
        let count = self.number(1, 1)?;
        self.believe(LABELS_HEADER + u64::from(count))?;
        Ok(count as usize)
    }

    /// The images after the header, image by image and row by row, in the file's order.
    pub(crate) fn images(&mut self, header: ImagesHeader) -> Result<Vec<u8>> {
        self.kept(header.len(), header.begin)
    }

    /// The labels after the header, each below `classes` if given.
    pub(crate) fn labels(&mut self, count: usize, classes: Option<usize>) -> Result<Vec<u8>> {
        let labels = self.kept(count, LABELS_HEADER)?;
        if let Some(classes) = classes {
            self.check_labels(&labels, classes)?;
        }
        Ok(labels)
    }

    /// By how much the data exceeds the size of the file; 0 if it does not.
    pub(crate) fn beyond(&self, len: usize) -> u64 {
        (len as u64).saturating_sub(self.size)
    }

    /// Checks that [`images`](Self::images) would succeed, keeping nothing.
    pub(crate) fn check_images(&self, header: ImagesHeader) -> Result<()> {
        self.again(header.begin)?.body(header.len(), header.begin, |_| Ok(()))
    }

    /// Checks that the file has the announced number of labels, keeping nothing.
    pub(crate) fn check_count(&self, count: usize) -> Result<()> {
        self.again(LABELS_HEADER)?.body(count, LABELS_HEADER, |_| Ok(()))
    }

    fn check_labels(&self, labels: &[u8], classes: usize) -> Result<()> {
        match labels.iter().position(|&label| usize::from(label) >= classes) {
            None => Ok(()),
            Some(index) => {
                let (path, got) = (self.path.clone(), labels[index]);
                Err(Error::Label { path, classes, index, got })
            }
        }
    }

    /// Reopens the file, positioned after its header.
    fn again(&self, header: u64) -> Result<Self> {
        let unreadable = |source| Error::Unreadable { path: self.path.clone(), source };
        let file = open_file(&self.path).map_err(unreadable)?;
        let mut bytes = decoded(file, self.is_packed);
        io::copy(&mut (&mut bytes).take(header), &mut io::sink()).map_err(unreadable)?;
        Ok(Self { path: self.path.clone(), bytes, ..*self })
    }

    /// Rejects a size that no file of this size can hold.
    fn believe(&self, expected: u64) -> Result<()> {
        if !self.is_packed && expected > self.size {
            return Err(Error::Truncated { path: self.path.clone(), expected, got: self.size });
        }
        let limit = self.size.saturating_mul(MOST_RATIO).max(FREE_BYTES);
        if self.is_packed && expected > limit {
            return Err(Error::TooPacked { path: self.path.clone(), limit, expected });
        }
        Ok(())
    }

    fn dims(&mut self, count: usize) -> Result<Vec<u32>> {
        (1..=count).map(|at| self.number(at, count)).collect()
    }

    fn other_kind(&self, expected: &'static str, magic: u32) -> Error {
        Error::Kind { path: self.path.clone(), expected, got: kind(magic) }
    }

    /// Number `at` of the header, which has one more than `dims`.
    fn number(&mut self, at: usize, dims: usize) -> Result<u32> {
        let mut bytes = Vec::with_capacity(4);
        let read = (&mut self.bytes).take(4).read_to_end(&mut bytes);
        let number = read
            .and_then(|_| bytes.as_slice().try_into().map_err(|_| ErrorKind::UnexpectedEof.into()));
        let got = (4 * at + bytes.len()) as u64;
        let number = number.map_err(|error| self.cut(error, 4 * (1 + dims as u64), got))?;
        Ok(u32::from_be_bytes(number))
    }

    /// Passes the `len` bytes after a header of `header` bytes to `take`, part by part; they must be the file's last.
    fn body(
        &mut self,
        len: usize,
        header: u64,
        mut give: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let expected = header + len as u64;
        let mut part = vec![0; PART];
        let mut left = len;
        // The read at the end also makes the decompressor verify its checksum.
        loop {
            let got = match self.bytes.read(&mut part) {
                Ok(0) if left == 0 => return Ok(()),
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read,
            };
            let got = match got {
                // All the announced data was read; neither an end nor another member follows.
                Err(error) if left == 0 && self.is_packed && !is_wrong_sum(&error) => {
                    return Err(Error::GzipEnd { path: self.path.clone(), source: error });
                }
                got => got.map_err(|error| self.cut(error, expected, expected - left as u64))?,
            };
            if got > left {
                return Err(Error::TrailingBytes { path: self.path.clone(), expected });
            }
            left -= got;
            give(&part[..got])?;
        }
    }

    /// Collects [`body`](Self::body).
    fn kept(&mut self, len: usize, header: u64) -> Result<Vec<u8>> {
        let mut kept = Vec::new();
        let reserved = kept.try_reserve_exact(len).map_err(|_| ErrorKind::OutOfMemory.into());
        reserved.map_err(|source| Error::Unreadable { path: self.path.clone(), source })?;
        self.body(len, header, |part| {
            kept.extend_from_slice(part);
            Ok(())
        })?;
        Ok(kept)
    }

    /// The error for a file of `expected` bytes that ended after `got`. A truncated gzip stream is the decompressor's
    /// [`ErrorKind::UnexpectedEof`] too.
    fn cut(&self, error: io::Error, expected: u64, got: u64) -> Error {
        let path = self.path.clone();
        match error.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated { path, expected, got },
            _ => Error::Unreadable { path, source: error },
        }
    }
}

/// Whether the decompressor found a wrong checksum. Junk after a stream is reported as a bad header instead.
fn is_wrong_sum(error: &io::Error) -> bool {
    error.to_string().contains("checksum")
}

/// Describes a file by its first four bytes.
fn kind(magic: u32) -> String {
    let bytes = magic.to_be_bytes();
    let [first, second, of, dims] = bytes;
    let numbers = match of {
        0x08 => "unsigned bytes",
        0x09 => "signed bytes",
        0x0b => "int16 numbers",
        0x0c => "int32 numbers",
        0x0d => "float32 numbers",
        0x0e => "float64 numbers",
        _ => "",
    };
    if [first, second] == [0, 0] && !numbers.is_empty() {
        let plural = if dims == 1 { "" } else { "s" };
        return format!("{numbers} in {dims} dimension{plural}");
    }
    match &bytes {
        b"vers" => "a Git LFS pointer: the file itself was not downloaded".to_owned(),
        b"<!DO" | b"<!do" | b"<htm" | b"<HTM" => "a web page".to_owned(),
        b"PK\x03\x04" => "a zip archive".to_owned(),
        b"\x93NUM" => "a NumPy array".to_owned(),
        [0x89, b'P', b'N', b'G'] => "a PNG picture".to_owned(),
        _ => format!("a file that begins with {magic:#010x}"),
    }
}

/// The content of a file, decompressed if it is gzipped.
fn decoded(file: File, is_packed: bool) -> Box<dyn Read> {
    if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(BufReader::new(file)) }
}

/// Writes images as an IDX file.
///
/// # Panics
/// If a dimension does not fit in 32 bits.
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
/// If the number of labels does not fit in 32 bits.
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
