//! Checkpoints with matching digests, as anyone can write them. The first byte says which of the two files is replaced.

use std::collections::BTreeMap;

use candle_core::Tensor;
use vit_files::{Digest, SUMS};
use vit_run::{CONFIG, MODEL, STATE, TENSORS};
use vit_train::SavedState;

use super::scratch::Scratch;

thread_local! {
    static FOLDER: Scratch = Scratch::new();
}

/// The state after one step without parameters.
const RIGHT_STATE: &str = r#"{"format":1,"place":{"step":1,"epoch":1,"step_of_epoch":1,
"of_epoch":{"loss_sum":2.5,"correct":1,"samples":4},"since_record":{"loss_sum":2.5,"correct":1,"samples":4},
"best":null},"order":"","metrics":{"bytes":0,"sha256":""},"about":{}}"#;
/// No tensors.
const RIGHT_TENSORS: &[u8] = b"\x08\0\0\0\0\0\0\0{}      ";

/// Property: tensors take no more memory than their file's size.
pub(super) fn read(bytes: &[u8]) -> bool {
    let Some((&which, bytes)) = bytes.split_first() else { return false };
    let (state, tensors) =
        if which % 2 == 0 { (bytes, RIGHT_TENSORS) } else { (RIGHT_STATE.as_bytes(), bytes) };
    FOLDER.with(|folder| {
        let mut sums = String::new();
        let others = [(CONFIG, &b""[..]), (MODEL, b"")];
        for (name, bytes) in [(STATE, state), (TENSORS, tensors)]
            .into_iter()
            .chain(others)
            .collect::<BTreeMap<_, _>>()
        {
            folder.write(name, bytes);
            sums += &format!("{}  {name}\n", Digest::of_bytes(bytes));
        }
        folder.write(SUMS, sums.as_bytes());
        let Ok(SavedState { state, .. }) = SavedState::read(folder.path(), 1 << 30) else {
            return false;
        };
        let size = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let moments = &state.moments;
        let all = [&state.parameters].into_iter().chain(&state.averages).chain(moments);
        let held: usize = all.flat_map(BTreeMap::values).map(size).sum();
        assert!(held <= tensors.len(), "{held} bytes of tensors in {}", tensors.len());
        true
    })
}
