//! Hand-made PNG files, of kinds that the `image` crate does not write, or that are invalid.

use std::io::Write;

use flate2::Crc;
use flate2::write::ZlibEncoder;

/// Fields of the IHDR chunk.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) depth: u8,
    pub(crate) colour: u8,
    pub(crate) interlaced: bool,
}

/// A file with this header and chunks.
pub(crate) fn png(header: &Header, chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let Header { width, height, depth, colour, interlaced } = *header;
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(b"IHDR", &[&size[..], &[depth, colour, 0, 0, interlaced.into()]].concat()));
    for (name, content) in chunks {
        file.extend(chunk(name, content));
    }
    file.extend(chunk(b"IEND", &[]));
    file
}

/// Content of an IDAT chunk: rows with filter type 0 (none).
pub(crate) fn rows<'a>(rows: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    for row in rows {
        packed.write_all(&[0]).unwrap();
        packed.write_all(row).unwrap();
    }
    packed.finish().unwrap()
}

/// A grey picture, interlaced or not; the passes are in the PNG specification, section 8.1.
pub(crate) fn grey(width: u32, bytes: &[u8], interlaced: bool) -> Vec<u8> {
    const PASSES: [[u8; 8]; 8] = [
        [1, 6, 4, 6, 2, 6, 4, 6],
        [7; 8],
        [5, 6, 5, 6, 5, 6, 5, 6],
        [7; 8],
        [3, 6, 4, 6, 3, 6, 4, 6],
        [7; 8],
        [5, 6, 5, 6, 5, 6, 5, 6],
        [7; 8],
    ];
    let pass = |x: usize, y: usize| if interlaced { PASSES[y % 8][x % 8] } else { 1 };
    let row = |number: u8, y: usize, row: &[u8]| -> Vec<u8> {
        let pixels = row.iter().enumerate().filter(|&(x, _)| pass(x, y) == number);
        pixels.map(|(_, &byte)| byte).collect()
    };
    let lines = || bytes.chunks(width as usize).enumerate();
    let passes = (1..=7).flat_map(|number| lines().map(move |(y, line)| row(number, y, line)));
    let passes: Vec<Vec<u8>> = passes.filter(|row| !row.is_empty()).collect();
    let height = (bytes.len() / width as usize) as u32;
    let header = Header { width, height, depth: 8, colour: 0, interlaced };
    png(&header, &[(b"IDAT", rows(passes.iter().map(Vec::as_slice)))])
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(name);
    crc.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&length[..], name, content, &crc.sum().to_be_bytes()].concat()
}
