//! The IDX format: a magic number, the dimensions, then the bytes, all big-endian.
//!
//! No memory is taken on the word of a header alone: it is believed as far as the file's size bears it out.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use vit_files::open_file;

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

/// The dimensions that an IDX file of images announces.
#[derive(Clone, Copy)]
pub(crate) struct ImagesHeader {
    pub(crate) count: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl ImagesHeader {
    /// Bytes behind it.
    pub(crate) const fn len(self) -> usize {
        self.count * self.height * self.width
    }
}

/// The bytes before the images, and before the labels.
const IMAGES_HEADER: u64 = 4 * 4;
const LABELS_HEADER: u64 = 2 * 4;

/// Bytes that are read at a time.
const PART: usize = 1 << 16;

/// An opened IDX file, plain or gzipped.
pub(crate) struct IdxReader {
    path: PathBuf,
    bytes: Box<dyn Read>,
    /// Bytes of the file as it lies on the disk.
    size: u64,
    is_packed: bool,
}

impl IdxReader {
    /// Opens a dataset's file in `folder`: the plain one if both are there.
    pub(crate) fn open(folder: &Path, file: IdxFile) -> Result<Self> {
        let plain = folder.join(file.name());
        if let Some((file, size)) = open(&plain)? {
            return Ok(Self { path: plain, bytes: decoded(file, false), size, is_packed: false });
        }
        let packed = folder.join(format!("{}.gz", file.name()));
        let Some((file, size)) = open(&packed)? else {
            return Err(Error::Absent { path: plain });
        };
        Ok(Self { path: packed, bytes: decoded(file, true), size, is_packed: true })
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
        self.believe(IMAGES_HEADER + len as u64)?;
        let [count, height, width] = [count, height, width].map(|dim| dim as usize);
        Ok(ImagesHeader { count, height, width })
    }

    /// How many labels a file of them announces.
    pub(crate) fn labels_header(&mut self) -> Result<usize> {
        let [count] = self.header(LABELS_MAGIC)?;
        self.believe(LABELS_HEADER + u64::from(count))?;
        Ok(count as usize)
    }

    /// The images behind the header: `count * height * width` bytes, image by image and row by row.
    pub(crate) fn images(&mut self, header: ImagesHeader) -> Result<Vec<u8>> {
        self.kept(header.len(), IMAGES_HEADER)
    }

    /// The labels behind the header, each below `classes`.
    pub(crate) fn labels(&mut self, count: usize, classes: usize) -> Result<Vec<u8>> {
        let labels = self.kept(count, LABELS_HEADER)?;
        self.check_labels(&labels, 0, classes)?;
        Ok(labels)
    }

    /// By how many bytes what is behind the header is more than the file, if there are so many.
    pub(crate) fn beyond(&self, len: usize) -> u64 {
        (len as u64).saturating_sub(self.size)
    }

    /// Holds the file to be what [`images`](Self::images) gives, and keeps none of it.
    pub(crate) fn check_images(&self, header: ImagesHeader) -> Result<()> {
        self.again(IMAGES_HEADER)?.body(header.len(), IMAGES_HEADER, |_| Ok(()))
    }

    /// Holds the file to be what [`labels`](Self::labels) gives, and keeps none of it.
    pub(crate) fn check_all_labels(&self, count: usize, classes: usize) -> Result<()> {
        let mut first = 0;
        self.again(LABELS_HEADER)?.body(count, LABELS_HEADER, |part| {
            self.check_labels(part, first, classes)?;
            first += part.len();
            Ok(())
        })
    }

    /// The labels from index `first` on.
    fn check_labels(&self, labels: &[u8], first: usize, classes: usize) -> Result<()> {
        match labels.iter().position(|&label| usize::from(label) >= classes) {
            None => Ok(()),
            Some(at) => {
                let (path, index, got) = (self.path.clone(), first + at, labels[at]);
                Err(Error::Label { path, classes, index, got })
            }
        }
    }

    /// The same file, opened anew, behind its header.
    fn again(&self, header: u64) -> Result<Self> {
        let unreadable = |source| Error::Unreadable { path: self.path.clone(), source };
        let file = open_file(&self.path).map_err(unreadable)?;
        let mut bytes = decoded(file, self.is_packed);
        io::copy(&mut (&mut bytes).take(header), &mut io::sink()).map_err(unreadable)?;
        Ok(Self { path: self.path.clone(), bytes, ..*self })
    }

    /// Refuses what no file of this size holds.
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
        let read = (&mut self.bytes).take(4).read_to_end(&mut bytes);
        let number = read
            .and_then(|_| bytes.as_slice().try_into().map_err(|_| ErrorKind::UnexpectedEof.into()));
        let got = (4 * at + bytes.len()) as u64;
        let number = number.map_err(|error| self.cut(error, 4 * (1 + dims as u64), got))?;
        Ok(u32::from_be_bytes(number))
    }

    /// Gives the `len` bytes after a header of `header` bytes, which must be the file's last, part by part.
    fn body(
        &mut self,
        len: usize,
        header: u64,
        mut give: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let expected = header + len as u64;
        let mut part = vec![0; PART];
        let mut left = len;
        // The read at the end also makes the decompressor check the sum over what it gave.
        loop {
            let got = match self.bytes.read(&mut part) {
                Ok(0) if left == 0 => return Ok(()),
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read,
            };
            let got = got.map_err(|error| self.cut(error, expected, expected - left as u64))?;
            if got > left {
                return Err(Error::TrailingBytes { path: self.path.clone(), expected });
            }
            left -= got;
            give(&part[..got])?;
        }
    }

    /// What [`body`](Self::body) gives.
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

    /// The error of a file of `expected` bytes of which only `got` could be read. That of a stream that breaks off is the
    /// decompressor's, and is [`ErrorKind::UnexpectedEof`] too.
    fn cut(&self, error: io::Error, expected: u64, got: u64) -> Error {
        let path = self.path.clone();
        match error.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated { path, expected, got },
            _ => Error::Unreadable { path, source: error },
        }
    }
}

/// What a file holds, unpacked where it is packed.
fn decoded(file: File, is_packed: bool) -> Box<dyn Read> {
    if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(BufReader::new(file)) }
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
    let opened = open_file(path).and_then(|file| {
        let size = file.metadata()?.len();
        Ok((file, size))
    });
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Unreadable { path: path.to_owned(), source }),
    }
}
