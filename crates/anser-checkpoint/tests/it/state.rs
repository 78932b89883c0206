//! States as files: exact round trips, refusals, damage, blending, and the `.pth` files of state tuning.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anser_checkpoint::state::{Accept, Orientation, Owner, Slot, SlotKind, StateFile, StateHeader};
use anser_checkpoint::{Config, Dtype, Error, Ranks, Tensor, Version, write_pth};
use anser_testkit::{Golden, Rng, assert_close, golden_dir};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn config(version: Version, layers: usize, heads: usize, head_size: usize) -> Config {
    let (heads, head_size) = if version == Version::V4 { (1, heads * head_size) } else { (heads, head_size) };
    Config {
        version,
        vocab: 256,
        width: heads * head_size,
        layers,
        heads,
        head_size,
        ffn: 64,
        ranks: Ranks::default(),
        layer_norm_eps: Config::LAYER_NORM_EPS,
        group_norm_eps: Config::GROUP_NORM_EPS,
    }
}

fn random(config: &Config, fingerprint: &str, seed: u64) -> StateFile {
    let mut rng = Rng(seed);
    let mut state = StateFile::zero(config, fingerprint);
    state.header.tokens = rng.bits() >> 1;
    state.header.last_tokens = vec![1, 2, 65535];
    for (_, values) in &mut state.slots {
        values.iter_mut().for_each(|v| *v = rng.uniform());
    }
    state
}

fn bytes(state: &StateFile) -> Vec<u8> {
    let mut out = Vec::new();
    state.write(&mut out).unwrap();
    out
}

fn bits(state: &StateFile) -> Vec<(Slot, Vec<u32>)> {
    state.slots.iter().map(|(slot, v)| (slot.clone(), v.iter().map(|v| v.to_bits()).collect())).collect()
}

/// Loads bytes as a state file called `s.state`.
fn load(bytes: &[u8]) -> Result<StateFile, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.state");
    fs::write(&path, bytes).unwrap();
    StateFile::load(&path)
}

/// An error's text without the folder of its file.
fn message(error: &Error) -> String {
    let text = error.to_string();
    match text.find("s.state") {
        Some(at) => text[at..].to_string(),
        None => text,
    }
}

/// A safetensors file of this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn any_version() -> impl Strategy<Value = Version> {
    prop::sample::select(Version::ALL.to_vec())
}

#[test]
fn slots_are_those_of_the_version() {
    let names = |c: &Config| c.state_slots().iter().map(|s| format!("{s} {:?}", s.shape)).collect::<Vec<_>>();
    let seven = [
        "layers.0.att_shift [6]",
        "layers.0.wkv [2, 3, 3]",
        "layers.0.ffn_shift [6]",
        "layers.1.att_shift [6]",
        "layers.1.wkv [2, 3, 3]",
        "layers.1.ffn_shift [6]",
    ];
    assert_eq!(names(&config(Version::V7, 2, 2, 3)), seven);
    assert_eq!(
        names(&config(Version::V4, 1, 2, 3)),
        ["layers.0.att_shift [6]", "layers.0.wkv [3, 6]", "layers.0.ffn_shift [6]"]
    );
    for version in Version::ALL {
        let config = config(version, 3, 2, 5);
        let elements: usize = config.state_slots().iter().map(Slot::elements).sum();
        assert_eq!(elements as u64, config.state_elements());
        assert!(StateFile::zero(&config, "f").check(Path::new("z"), &config, "f", Accept::SameModel).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_saved_state_comes_back_bit_for_bit(
        version in any_version(), layers in 1usize..12, heads in 1usize..4, size in 1usize..9, seed: u64,
    ) {
        let config = config(version, layers, heads, size);
        let mut state = random(&config, "0123456789abcdef", seed);
        let mut rng = Rng(seed);
        for (_, values) in &mut state.slots {
            // Any bit pattern: NaN payloads, infinities, subnormals, -0.
            values.iter_mut().for_each(|v| *v = f32::from_bits(rng.bits() as u32));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.state");
        state.save(&path).unwrap();
        let loaded = StateFile::load(&path).unwrap();
        prop_assert_eq!(&loaded.header, &state.header);
        prop_assert_eq!(bits(&loaded), bits(&state));
        let written = fs::read(&path).unwrap();
        prop_assert_eq!(&written, &bytes(&loaded), "one state, one sequence of bytes");
        // Other programs can read it: plain safetensors with these names.
        let tensors = SafeTensors::deserialize(&written).unwrap();
        let wkv = tensors.tensor("layers.0.wkv").unwrap();
        prop_assert_eq!(wkv.shape(), &config.state_slots()[1].shape[..]);
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else was left in the folder");
    }

    #[test]
    fn blends_keep_their_laws(version in any_version(), seed: u64, w in 0.0f32..2.0) {
        let config = config(version, 2, 2, 4);
        let (a, b) = (random(&config, "f", seed), random(&config, "f", seed ^ 1));
        let identity = StateFile::blend(&[(&a, 1.0), (&b, 0.0)]).unwrap();
        prop_assert_eq!(bits(&identity), bits(&a));
        prop_assert_eq!(identity.header.tokens, a.header.tokens.max(b.header.tokens));
        let (ab, ba) = (StateFile::blend(&[(&a, w), (&b, 0.5)]).unwrap(), StateFile::blend(&[(&b, 0.5), (&a, w)]).unwrap());
        prop_assert_eq!(bits(&ab), bits(&ba));
        if version != Version::V4 {
            for ((slot, got), ((_, a), (_, b))) in ab.slots.iter().zip(a.slots.iter().zip(&b.slots)) {
                let want: Vec<f32> = a.iter().zip(b).map(|(a, b)| w * a + 0.5 * b).collect();
                assert_close(&slot.to_string(), got, &want, 1e-6);
            }
        }
    }

    #[test]
    fn blended_rwkv4_quotients_are_sums_of_numerators_and_denominators(seed: u64, w in 0.01f64..3.0, far in -300.0f32..300.0) {
        let config = config(Version::V4, 1, 1, 8);
        let (mut a, mut b) = (random(&config, "f", seed), random(&config, "f", seed ^ 1));
        for (state, shift) in [(&mut a, 0.0), (&mut b, far)] {
            let wkv = &mut state.slots[1].1;
            wkv[8..16].iter_mut().for_each(|bb| *bb = bb.abs() + 0.1);
            wkv[16..].iter_mut().for_each(|pp| *pp += shift);
        }
        let blend = StateFile::blend(&[(&a, w as f32), (&b, 1.0)]).unwrap();
        let (a, b, got) = (&a.slots[1].1, &b.slots[1].1, &blend.slots[1].1);
        let w = w as f32 as f64;
        for c in 0..8 {
            let scale = |x: &[f32]| (x[16 + c] as f64 - far.max(0.0) as f64).exp();
            let sum = |row: usize| w * scale(a) * a[8 * row + c] as f64 + scale(b) * b[8 * row + c] as f64;
            let want = sum(0) / sum(1);
            let quotient = got[c] as f64 / got[8 + c] as f64;
            prop_assert!((quotient - want).abs() < 1e-5 * (1.0 + want.abs()), "{quotient}, expected {want}");
            prop_assert_eq!(got[16 + c], a[16 + c].max(b[16 + c]));
        }
    }

    #[test]
    fn damage_is_found(version in any_version(), seed: u64, at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let good = bytes(&random(&config(version, 2, 1, 4), "f", seed));
        prop_assert!(load(&good[..cut.index(good.len())]).is_err(), "a cut file was read");
        let mut flipped = good.clone();
        let at = at.index(good.len());
        flipped[at] ^= 1 << bit;
        let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        let result = load(&flipped);
        prop_assert!(at < header || result.is_err(), "a flipped bit in the data was read");
    }
}

#[test]
fn blends_that_mean_nothing_are_refused() {
    let (seven, six) = (config(Version::V7, 1, 2, 4), config(Version::V6, 1, 2, 4));
    let a = random(&seven, "aaaa", 1);
    let text = |parts: &[(&StateFile, f32)]| StateFile::blend(parts).unwrap_err().to_string();
    assert_eq!(text(&[]), "state 1 of the blend: the number of states is 0, expected at least 1");
    assert_eq!(text(&[(&a, f32::NAN)]), "state 1 of the blend: the weight is NaN, expected a finite number");
    let other = random(&six, "aaaa", 2);
    assert_eq!(text(&[(&a, 1.0), (&other, 1.0)]), "state 2 of the blend: the architecture is rwkv6, expected rwkv7");
    let other = random(&seven, "bbbb", 2);
    assert_eq!(
        text(&[(&a, 1.0), (&other, 1.0)]),
        "state 2 of the blend: the fingerprint of the state's model is bbbb, expected aaaa"
    );
    let four = random(&config(Version::V4, 1, 2, 4), "f", 2);
    assert_eq!(
        text(&[(&four, 1.5), (&four, -0.5)]),
        "state 2 of the blend: the weight is -0.5, expected at least 0: the state holds quotients"
    );
    let mut counter = a.clone();
    counter.slots[0].0.kind = SlotKind::Counter;
    assert_eq!(
        text(&[(&counter, 1.0)]),
        "state 1 of the blend: the kind of slot layers.0.att_shift is counter, expected fixed: no other can be blended"
    );
}

#[test]
fn a_state_of_another_model_is_refused() {
    let own = config(Version::V7, 2, 2, 4);
    let fingerprint = "0123456789abcdef0123";
    let state = random(&own, fingerprint, 1);
    let path = Path::new("s.state");
    let check = |config: &Config, fingerprint: &str, accept| state.check(path, config, fingerprint, accept);
    let text = |config: &Config| check(config, fingerprint, Accept::SameShapes).unwrap_err().to_string();
    assert!(check(&own, fingerprint, Accept::SameModel).is_ok());
    assert_eq!(text(&config(Version::V6, 2, 2, 4)), "s.state: the state's architecture is rwkv7, expected rwkv6");
    assert_eq!(
        text(&config(Version::V7, 2, 1, 8)),
        "s.state: the shape of slot layers.0.wkv is [2, 4, 4], expected [1, 8, 8]"
    );
    assert_eq!(
        text(&config(Version::V7, 2, 3, 4)),
        "s.state: the shape of slot layers.0.att_shift is [8], expected [12]"
    );
    assert_eq!(text(&config(Version::V7, 3, 2, 4)), "s.state: the number of slots is 6, expected 9");
    assert_eq!(
        check(&own, "fedcba9876543210", Accept::SameModel).unwrap_err().to_string(),
        "s.state: the fingerprint of the state's model is 0123456789ab..., expected fedcba987654... (architecture and \
         shapes fit: a fine-tune of the same base may be allowed to use it)"
    );
    assert!(check(&own, "fedcba9876543210", Accept::SameShapes).is_ok());
    let mut nan = state.clone();
    nan.slots[4].1[7] = f32::NAN;
    assert_eq!(
        nan.check(path, &own, fingerprint, Accept::SameModel).unwrap_err().to_string(),
        "s.state: value 7 of slot layers.1.wkv is NaN, expected a finite number"
    );
    let mut unknown = state.clone();
    unknown.header.fingerprint.clear();
    assert_eq!(
        unknown.check(path, &own, "", Accept::SameModel).unwrap_err().to_string(),
        "s.state: the fingerprint of the state's model is unknown, expected unknown (architecture and shapes fit: a \
         fine-tune of the same base may be allowed to use it)"
    );
}

#[test]
fn a_summary_shows_each_slot() {
    let mut state = StateFile::zero(&config(Version::V7, 1, 1, 2), "f");
    state.slots[1].1.copy_from_slice(&[3.0, f32::NAN, -4.0, f32::INFINITY]);
    let wkv = &state.summary()[1];
    assert_eq!((wkv.name.as_str(), &wkv.shape[..]), ("layers.0.wkv", &[1, 2, 2][..]));
    assert_eq!((wkv.norm, wkv.min, wkv.max, wkv.non_finite), (5.0, -4.0, 3.0, 2));
}

#[test]
fn files_that_are_no_states_are_refused() {
    let refused = |bytes: &[u8]| message(&load(bytes).unwrap_err());
    let unrecognised = "s.state: expected a state file, which begins as safetensors do";
    assert_eq!(refused(b""), unrecognised);
    assert_eq!(refused(&[255; 64]), unrecognised);
    assert_eq!(refused(&file(&"[".repeat(100_000), b"")), unrecognised);
    assert!(refused(&file(&"{\"a\":".repeat(100_000), b"")).starts_with("s.state: the header is damaged: "));
    // A header that claims nearly 100 MB in a file of 108 bytes.
    let claims = [&99_999_999u64.to_le_bytes()[..], &[b'{'; 100]].concat();
    assert_eq!(refused(&claims), "s.state: the header needs 100000007 bytes, the file has 108");
    assert_eq!(
        refused(&file("{}", b"")),
        "s.state: expected a state file (metadata format = anser-state), found other safetensors data"
    );
    let model = fs::read(golden_dir().join("lm/sampling.safetensors")).unwrap();
    assert!(refused(&model).ends_with("found other safetensors data"));
    assert_eq!(refused(b"PK\x03\x04"), "s.state: a PyTorch file as a state is not supported");
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(StateFile::load(folder.path()), Err(Error::UnknownFormat { .. } | Error::Io { .. })));
    assert!(matches!(StateFile::load(&folder.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn headers_are_read_strictly() {
    let metadata = |change: &dyn Fn(&mut serde_json::Value)| {
        let slots = r#"[{"name":"layers.0.x","kind":"fixed","orientation":"vector"}]"#;
        let mut header = serde_json::json!({
            "__metadata__": {
                "format": "anser-state", "format_version": "1", "architecture": "rwkv7", "fingerprint": "f",
                "tokens": "3", "slots": slots,
            },
            "layers.0.x": { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] },
        });
        change(&mut header);
        file(&header.to_string(), &[0, 0, 128, 63, 0, 0, 0, 64])
    };
    let good = load(&metadata(&|_| ())).expect("made by other hands, without checksum and author");
    assert_eq!(good.slots[0].1, [1.0, 2.0]);
    assert_eq!(good.header.tokens, 3);

    let refused = |change: &dyn Fn(&mut serde_json::Value)| message(&load(&metadata(change)).unwrap_err());
    let set = |key: &'static str, value: &'static str| {
        refused(&move |h: &mut serde_json::Value| h["__metadata__"][key] = value.into())
    };
    assert_eq!(
        set("format_version", "2"),
        "s.state: state format version 2 (versions up to 1 are read) is not supported"
    );
    assert_eq!(set("format_version", "x"), r#"s.state: metadata `format_version` is "x", expected a whole number"#);
    assert_eq!(set("tokens", "-1"), r#"s.state: metadata `tokens` is "-1", expected a whole number"#);
    assert_eq!(set("slots", "[]"), "s.state: the header lists 0 slots, the file holds 1 tensors");
    assert!(set("slots", "{").starts_with("s.state: metadata `slots`: "));
    assert!(set("last_tokens", "[-1]").starts_with("s.state: metadata `last_tokens`: "));
    assert!(
        set("checksum", "00")
            .ends_with("the slots' bytes do not match the checksum in the header: the file is damaged")
    );
    let slot = |text: &'static str| set("slots", text);
    assert_eq!(
        slot(r#"[{"name":"layers.1.x","kind":"fixed","orientation":"vector"}]"#),
        "s.state: slot `layers.1.x` has no tensor of its own"
    );
    assert_eq!(
        slot(r#"[{"name":"layers.0.x","kind":"fixed","orientation":"key_value"}]"#),
        "s.state: slot `layers.0.x`: shape [2], expected 3 axes"
    );
    assert_eq!(
        slot(r#"[{"name":"layers.0.x","kind":{"ring":{"position":2}},"orientation":"vector"}]"#),
        "s.state: slot `layers.0.x`: shape [2], expected 2 axes"
    );
    for key in ["format_version", "architecture", "fingerprint", "tokens", "slots"] {
        let text = refused(&|h: &mut serde_json::Value| {
            h["__metadata__"].as_object_mut().unwrap().remove(key);
        });
        assert_eq!(text, format!("s.state: metadata `{key}` is missing from the state's header"));
    }
    let dtype = refused(&|h: &mut serde_json::Value| {
        h["layers.0.x"] = serde_json::json!({ "dtype": "F16", "shape": [4], "data_offsets": [0, 8] });
    });
    assert_eq!(dtype, "s.state: tensor `layers.0.x` is stored as a 16-bit type, expected F32");
    for name in
        ["wkv", "layers.x", "layers.01.x", "layers.+1.x", "layers.0.", "model.", "layers.99999999999999999999.x"]
    {
        let text = refused(&|h: &mut serde_json::Value| {
            let tensor = h.as_object_mut().unwrap().remove("layers.0.x").unwrap();
            h[name] = tensor;
            h["__metadata__"]["slots"] =
                serde_json::json!([{ "name": name, "kind": "fixed", "orientation": "vector" }]).to_string().into();
        });
        assert_eq!(text, format!("s.state: slot `{name}`: expected layers.<number>.<name> or model.<name>"));
    }
    let shape = refused(&|h: &mut serde_json::Value| h["layers.0.x"]["shape"] = serde_json::json!([1u64 << 62, 8]));
    assert!(shape.ends_with("cannot fill bytes 0..8"), "{shape}");
    // Eight tensors that end where u64 does: sums of offsets must not overflow.
    let far = refused(&|h: &mut serde_json::Value| {
        let size = 1u64 << 61;
        for i in 0..8u64 {
            h[format!("layers.{i}.x")] = serde_json::json!({
                "dtype": "F32", "shape": [size / 4 - i / 7], "data_offsets": [i * size, (i + 1).wrapping_mul(size).wrapping_sub(i / 7 * 4)],
            });
        }
    });
    assert!(far.contains("needs 23058430"), "{far}");
}

#[test]
fn other_kinds_of_slots_survive_the_file() {
    let slot = |owner, name: &'static str, shape: &[usize], kind, orientation| {
        let slot = Slot { owner, name: Cow::Borrowed(name), shape: shape.to_vec(), kind, orientation };
        let values = (0..slot.elements()).map(|i| i as f32).collect();
        (slot, values)
    };
    let state = StateFile {
        header: StateHeader::new("f", "goldfinch", 7),
        slots: vec![
            slot(Owner::Layer(10), "window", &[4, 3], SlotKind::Ring { position: 2 }, Orientation::Vector),
            slot(Owner::Layer(2), "keys", &[0, 3], SlotKind::Growing, Orientation::Vector),
            slot(Owner::Model, "steps", &[1], SlotKind::Counter, Orientation::Vector),
            slot(Owner::Layer(2), "s", &[1, 2, 2], SlotKind::Fixed, Orientation::ValueKey),
        ],
    };
    assert_eq!(load(&bytes(&state)).unwrap(), state);
    let mut short = state.clone();
    short.slots[0].1.pop();
    let error = short.write(&mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "slot layers.10.window holds 11 values, its shape asks for 12");
}

#[test]
fn a_failed_save_leaves_nothing_and_names_the_path() {
    let state = random(&config(Version::V7, 1, 1, 2), "f", 1);
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none/s.state");
    let text = state.save(&missing).unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}: ", missing.display())) && !text.contains(".anser-"), "{text}");

    let text = state.save(folder.path()).unwrap_err().to_string();
    assert_eq!(text, format!("{}: exists and is not an ordinary file", folder.path().display()));

    // A state that cannot be written must not touch the file it was to replace.
    let path = folder.path().join("s.state");
    state.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let mut broken = state.clone();
    broken.slots[2].1.clear();
    assert!(matches!(broken.save(&path), Err(Error::Io { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    let other = random(&config(Version::V7, 1, 1, 2), "f", 2);
    other.save(&path).unwrap();
    assert_eq!(StateFile::load(&path).unwrap(), other);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let state = random(&config(Version::V7, 2, 2, 8), "f", 1);
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(state.write(&mut full).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let text = state.save(Path::new("/dev/full")).unwrap_err().to_string();
    assert_eq!(text, "/dev/full: exists and is not an ordinary file");
}

#[cfg(unix)]
#[test]
fn a_link_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.state"), folder.path().join("link.state"));
    fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let state = random(&config(Version::V7, 1, 1, 2), "f", 1);
    state.save(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(StateFile::load(&real).unwrap(), state);
}

/// The models of lm/infer_v52, infer_v6 and infer_v7.
fn tuned() -> [(&'static str, Config); 3] {
    [("v52", Version::V5_2), ("v6", Version::V6), ("v7", Version::V7)].map(|(name, version)| {
        let golden = Golden::open("state/time_state");
        let layers = golden.names().filter(|n| n.starts_with(&format!("state.{name}."))).count();
        (name, config(version, layers, 2, 32))
    })
}

#[test]
fn tuned_states_of_torch_are_read_and_written_back() {
    let golden = Golden::open("state/time_state");
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in tuned() {
        let state =
            StateFile::from_time_state(&golden_dir().join(format!("state/time_state_{name}.pth")), &config, "f")
                .unwrap();
        assert_eq!(state.header, StateHeader::new("f", config.architecture(), 0));
        for layer in 0..config.layers {
            let (stored, wkv) = (golden.f32(&format!("state.{name}.{layer}")), &state.slots[3 * layer + 1].1);
            let at = |h: usize, row: usize, column: usize| (h * 32 + row) * 32 + column;
            for (h, key, value) in (0..2).flat_map(|h| (0..32 * 32).map(move |i| (h, i / 32, i % 32))) {
                assert_eq!(wkv[at(h, key, value)].to_bits(), stored[at(h, value, key)].to_bits());
            }
            assert!(state.slots[3 * layer].1.iter().chain(&state.slots[3 * layer + 2].1).all(|&v| v == 0.0));
        }
        let path = folder.path().join(format!("{name}.pth"));
        assert!(state.to_time_state_pth(&path).unwrap().is_empty());
        assert_eq!(StateFile::from_time_state(&path, &config, "f").unwrap(), state);

        let mut moved = state.clone();
        moved.slots[2].1[0] = 1.0;
        assert_eq!(moved.to_time_state_pth(&path).unwrap(), ["layers.0.ffn_shift"]);
        assert_eq!(StateFile::from_time_state(&path, &config, "f").unwrap(), state);
    }
}

#[test]
fn tuned_states_of_other_shapes_are_refused() {
    let path = golden_dir().join("state/time_state_v6.pth");
    let refused = |config: &Config| {
        let text = StateFile::from_time_state(&path, config, "f").unwrap_err().to_string();
        text.replace(&path.display().to_string(), "t.pth")
    };
    let layers = tuned()[1].1.layers;
    assert_eq!(
        refused(&config(Version::V6, layers, 1, 64)),
        "t.pth: tensor `blocks.0.att.time_state` has shape [2, 32, 32], expected [1, 64, 64]"
    );
    assert_eq!(
        refused(&config(Version::V6, layers + 1, 2, 32)),
        format!("t.pth: tensor `blocks.{layers}.att.time_state` is missing (the file looks like RWKV-6)")
    );
    assert_eq!(
        refused(&config(Version::V6, layers - 1, 2, 32)),
        format!("t.pth: a tensor is `blocks.{}.att.time_state`, expected tensors of {} layers", layers - 1, layers - 1)
    );
    assert_eq!(refused(&config(Version::V4, layers, 2, 32)), "t.pth: time_state for RWKV-4 is not supported");
    let four = StateFile::zero(&config(Version::V4, 1, 1, 4), "f");
    let folder = tempfile::tempdir().unwrap();
    let error = four.to_time_state_pth(&folder.path().join("t.pth")).unwrap_err();
    assert!(matches!(error, Error::StateMismatch { .. }));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let name = |i: usize| format!("blocks.{i}.att.time_state");
    let nan: Vec<u8> = (0..4).flat_map(|i| if i == 2 { f32::NAN } else { 0.0 }.to_le_bytes()).collect();
    let tensor = Tensor { name: name(0), dtype: Dtype::F32, shape: vec![1, 2, 2], data: Cow::Borrowed(&nan) };
    let path = folder.path().join("nan.pth");
    write_pth(&path, &[tensor]).unwrap();
    let error = StateFile::from_time_state(&path, &config(Version::V7, 1, 1, 2), "f").unwrap_err();
    assert!(matches!(error, Error::NonFinite { index: 2, .. }), "{error}");
}

#[test]
fn pth_files_are_written_as_torch_lays_them_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let tensor = |name: &str, dtype: Dtype, shape: &[usize]| Tensor {
        name: name.to_string(),
        dtype,
        shape: shape.to_vec(),
        data: Cow::Owned((0..shape.iter().product::<usize>() * dtype.bytes()).map(|i| i as u8).collect()),
    };
    let tensors = [
        tensor("a", Dtype::F32, &[2, 3]),
        tensor("\u{e9}", Dtype::Bf16, &[5]),
        tensor("scalar", Dtype::F16, &[]),
        tensor("none", Dtype::F32, &[0, 4]),
    ];
    write_pth(&path, &tensors).unwrap();
    let mut archive = zip::ZipArchive::new(fs::File::open(&path).unwrap()).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let expected = ["data.pkl", "byteorder", "data/0", "data/1", "data/2", "data/3", "version"];
    assert_eq!(names, expected.map(|n| format!("archive/{n}")));
    for i in 0..archive.len() {
        let entry = archive.by_index(i).unwrap();
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        assert_eq!(entry.data_start().unwrap() % 64, 0);
    }
    let twice = [tensor("a", Dtype::F32, &[1]), tensor("a", Dtype::F32, &[1])];
    assert!(write_pth(&path, &twice).unwrap_err().to_string().ends_with("two tensors are called `a`"));
    let mut short = tensor("a", Dtype::F32, &[2]);
    short.data = Cow::Borrowed(&[0; 7]);
    assert!(
        write_pth(&path, &[short]).unwrap_err().to_string().ends_with("tensor `a` of shape [2] needs 8 bytes, 7 given")
    );
}
