//! PNG files by hand, of kinds that the `image` crate does not write, or that no one should.

use std::io::Write;

use flate2::Crc;
use flate2::write::ZlibEncoder;

/// Of an IHDR chunk.
pub(crate) struct Header {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) depth: u8,
    pub(crate) colour: u8,
}

/// A file of these chunks behind the header, the pixels' rows as they are.
pub(crate) fn png(header: &Header, chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let Header { width, height, depth, colour } = *header;
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(b"IHDR", &[&size[..], &[depth, colour, 0, 0, 0]].concat()));
    for (name, content) in chunks {
        file.extend(chunk(name, content));
    }
    file.extend(chunk(b"IEND", &[]));
    file
}

/// The content of an IDAT chunk: each row behind the number of its filter, none.
pub(crate) fn rows<'a>(rows: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    for row in rows {
        packed.write_all(&[0]).unwrap();
        packed.write_all(row).unwrap();
    }
    packed.finish().unwrap()
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(name);
    crc.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&length[..], name, content, &crc.sum().to_be_bytes()].concat()
}
