//! What the fuzz targets call.

mod parsers;

/// Has one of the parsers read these bytes, whether it takes or refuses them.
///
/// # Panics
/// If something does not hold that must; that is what is looked for.
pub fn read(name: &str, bytes: &[u8]) {
    let parser = parsers::ALL.iter().find(|parser| parser.name == name);
    (parser.expect("a target is named after its parser").read)(bytes);
}
