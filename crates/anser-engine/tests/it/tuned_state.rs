//! Tuned initial states (`time_state`): the logits of the `rwkv` package vouch for their orientation.

use anser_checkpoint::state::{Accept, StateFile};
use anser_engine::{Executor, Recipe};
use anser_testkit::{Golden, assert_close, golden_dir};

use crate::{golden_model, run};

#[test]
fn a_tuned_state_gives_the_reference_logits() {
    let golden = Golden::open("state/time_state");
    let tokens = golden.tokens("in.tokens");
    let mut exec = Executor::new(1);
    for version in ["v52", "v6", "v7"] {
        let model = golden_model(&format!("lm/infer_{version}"), Recipe::F32, &exec);
        let path = golden_dir().join(format!("state/time_state_{version}.pth"));
        let file = StateFile::from_time_state(&path, model.config(), "tuned on").expect("a tuned state");
        file.check(&path, model.config(), "tuned on", Accept::SameModel).expect("a state of this model");
        let mut state = model.new_state();
        state.restore(&file).expect("the same slots");
        let logits = run(&*model, &mut exec, &tokens, &mut state);
        assert_close(version, &logits, golden.f32(&format!("out.{version}.logits")), 3e-5);
    }
}
