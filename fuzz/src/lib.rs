//! Entry point of the fuzz targets.

mod parsers;

/// Runs one of the parsers on these bytes, valid or not.
///
/// # Panics
/// If the parser violates one of its properties, which is a finding.
pub fn read(name: &str, bytes: &[u8]) {
    let parser = parsers::ALL.iter().find(|parser| parser.name == name);
    (parser.expect("a target is named after its parser").read)(bytes);
}
