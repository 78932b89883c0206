//! State files. What is read can be written, and reads back the same.
#![no_main]

use anser_checkpoint::state::StateFile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = anser_fuzz::file("state.anser", data, 0);
    let Ok(state) = StateFile::load(&path) else { return };
    let _ = state.summary();
    let mut first = Vec::new();
    state.write(&mut first).expect("what was read can be written");
    let again = StateFile::load(&anser_fuzz::file("again.anser", &first, 0)).expect("what was written can be read");
    let mut second = Vec::new();
    again.write(&mut second).expect("what was read can be written");
    // Bytes, since NaN is not equal to itself.
    assert!(first == second);
    let _ = StateFile::blend(&[(&state, 0.5), (&again, 0.5)]);
});
