//! Damaged and malicious files: an error, or numbers; never a panic, never memory beyond what the file warrants.

use anser_checkpoint::{Checkpoint, Error};
use anser_testkit::golden_dir;
use proptest::prelude::*;

use crate::allocation::peak;
use crate::files::{Tensors, open_bytes, pth, safetensors, weights, with_header};

/// Opens, reads everything there is, and reports the most memory held meanwhile.
fn survive(bytes: &[u8]) -> usize {
    let file = crate::files::File::new("model", bytes);
    peak(|| {
        if let Ok(checkpoint) = file.open() {
            read_all(&checkpoint);
        }
    })
}

fn read_all(checkpoint: &Checkpoint) {
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(&name).unwrap();
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.elements());
        // Piece by piece: what is allocated here would count as the reader's.
        let mut piece = [0.0; 1024];
        for start in (0..tensor.elements()).step_by(piece.len()) {
            let count = piece.len().min(tensor.elements() - start);
            tensor.read_f32(start, &mut piece[..count]);
        }
    }
    assert_eq!(checkpoint.fingerprint().len(), 64);
}

/// Names and shapes cost more than the few bytes a hostile file spends on them; weights may be widened once.
fn warranted(bytes: &[u8]) -> usize {
    64 * bytes.len() + (1 << 20)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(golden_dir().join(name)).unwrap()
}

/// The smallest of the golden files of every container.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ["f32", "shared_storage", "deepspeed_prefix", "legacy_f16", "legacy_shared_storage"]
        .iter()
        .map(|name| golden(&format!("lm/pth_variants/{name}.pth")))
        .collect();
    seeds.push(safetensors(&weights("lm/pth_variants/model")));
    seeds
}

#[test]
fn whole_files_are_read_in_place() {
    for bytes in seeds() {
        assert!(survive(&bytes) < 2 * bytes.len() + (1 << 20));
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    for bytes in seeds() {
        for end in (0..bytes.len()).step_by(bytes.len() / 150).chain(bytes.len() - 40..bytes.len()).chain(0..40) {
            assert!(open_bytes(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn flipped_bits_never_panic(
        seed in 0usize..6,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8, any::<bool>()), 1..8),
    ) {
        let mut bytes = seeds().swap_remove(seed);
        // Where the directory, header or pickle is, bits matter most: at the ends.
        let ends = bytes.len().min(8192);
        for (at, bit, at_end) in flips {
            let place = at.index(ends);
            let place = if at_end { bytes.len() - 1 - place } else { place };
            bytes[place] ^= 1 << bit;
        }
        prop_assert!(survive(&bytes) < warranted(&bytes));
    }

    #[test]
    fn arbitrary_pickles_never_panic(body in prop::collection::vec(opcode(), 0..200)) {
        let pickle = [&b"\x80\x02"[..], &body.concat(), b"."].concat();
        prop_assert!(survive(&pth(&pickle, &[("0", &[0; 64])])) < 4 << 20);
        let legacy = [LEGACY, &body.concat(), b"."].concat();
        prop_assert!(survive(&legacy) < 4 << 20);
    }

    #[test]
    fn arbitrary_headers_never_panic(header in "[\\[\\]{}\":,0-9a-zF_ ]{0,200}") {
        survive(&with_header(&format!("{{{header}"), &[0; 32]));
    }
}

const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

/// Operations of pickles, whole more often than not.
fn opcode() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop::sample::select(vec![
        b"}".to_vec(),
        b"]".to_vec(),
        b")".to_vec(),
        b"(".to_vec(),
        b"t".to_vec(),
        b"u".to_vec(),
        b"s".to_vec(),
        b"e".to_vec(),
        b"R".to_vec(),
        b"Q".to_vec(),
        b"b".to_vec(),
        b"q\x00".to_vec(),
        b"h\x00".to_vec(),
        b"\x86".to_vec(),
        b"K\x02".to_vec(),
        b"X\x01\0\0\0a".to_vec(),
        b"X\x07\0\0\0storage".to_vec(),
        b"X\x01\0\0\x000".to_vec(),
        b"ctorch\nFloatStorage\n".to_vec(),
        b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
        b"ccollections\nOrderedDict\n".to_vec(),
        b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
    ]);
    prop_oneof![9 => whole, 1 => prop::collection::vec(any::<u8>(), 1..4)]
}

/// A pickled tensor of this storage type, offset, shape and strides.
fn tensor(storage: &str, key: &str, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let integer = |value: i64| [&b"\x8a\x08"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i64]| {
        let items: Vec<u8> = values.iter().flat_map(|&value| integer(value)).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage")[..],
        format!("ctorch\n{storage}\n").as_bytes(),
        &text(key),
        &text("cpu"),
        &integer(1),
        b"tQ",
        &integer(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A dictionary with one entry.
fn state_dict(name: &str, value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}("[..], &text(name), value, b"u."].concat()
}

fn open_pickle(pickle: &[u8]) -> Error {
    let file = pth(pickle, &[("0", &[0; 256])]);
    let mut answer = None;
    let held = peak(|| answer = Some(open_bytes(&file)));
    assert!(held < 4 << 20, "{held} bytes held");
    answer.unwrap().unwrap_err()
}

#[test]
fn code_in_a_pickle_is_named_and_never_run() {
    let calls: [(&[u8], &str); 6] = [
        (b"cos\nsystem\nX\x04\0\0\0exit\x85R", "os.system"),
        (b"c__builtin__\neval\nX\x01\0\0\x001\x85R", "__builtin__.eval"),
        (b"(ios\nsystem\n", "os.system"),
        (b"X\x02\0\0\0osX\x06\0\0\0system\x93X\x01\0\0\x001\x85R", "os.system"),
        (b"ctorch\nload\n", "torch.load"),
        (b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n", "torch._utils._rebuild_device_tensor_from_numpy"),
    ];
    for (call, name) in calls {
        for pickle in [state_dict("emb.weight", call), [b"\x80\x02", call, b"."].concat()] {
            let error = open_pickle(&pickle);
            assert!(matches!(&error, Error::ForeignPickle { global, .. } if global == name), "{name}: {error}");
        }
    }
    let long = [b"\x80\x02c".to_vec(), vec![b'a'; 100_000], b"\nb\n.".to_vec()].concat();
    assert!(open_pickle(&long).to_string().len() < 300);
}

#[test]
fn pickles_that_go_round_or_down() {
    // A list and a dictionary that hold themselves.
    for cycle in [&b"\x80\x02]q\x00h\x00a."[..], b"\x80\x02}q\x00X\x01\0\0\0ah\x00s."] {
        assert!(matches!(open_pickle(cycle), Error::Malformed { .. } | Error::Unsupported { .. }));
    }
    // A million lists in each other.
    let deep = [&b"\x80\x02"[..], &b"]".repeat(200_000), &b"a".repeat(199_999), b"."].concat();
    let file = pth(&deep, &[]);
    assert!(open_bytes(&file).is_err());
    assert!(survive(&file) < warranted(&file));
    // Every tuple holds the one before twice.
    let doubling = [&b"\x80\x02)q\x00"[..], &b"h\x00h\x00\x86q\x00".repeat(1000), b"."].concat();
    assert!(open_pickle(&doubling).to_string().contains("a tuple"));
    // No end of it.
    let endless = [&b"\x80\x02"[..], &b"N".repeat(3 << 20), b"."].concat();
    let file = pth(&endless, &[]);
    assert!(open_bytes(&file).unwrap_err().to_string().contains("operations"));
    assert!(survive(&file) < warranted(&file));
}

#[test]
fn lengths_beyond_the_file() {
    for claim in [&b"X\xff\xff\xff\xff"[..], b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"B\xff\xff\xff\x7f", b"\x8a\xff"]
    {
        let error = open_pickle(&[b"\x80\x02", claim, b"abc."].concat());
        assert!(matches!(error, Error::Truncated { .. }), "{error}");
    }
}

#[test]
fn tensors_beyond_their_storage() {
    let huge = i64::MAX;
    let cases: [(i64, &[i64], &[i64]); 9] = [
        (0, &[65], &[1]),
        (1, &[64], &[1]),
        (huge, &[1], &[1]),
        (0, &[huge, huge], &[1, 1]),
        (0, &[1 << 40], &[0]),
        (0, &[2, 2], &[huge, 1]),
        (0, &[2, 2], &[64, 1]),
        (0, &[0, huge], &[huge, huge]),
        (0, &[64, 2], &[0, 1]),
    ];
    for (offset, shape, strides) in cases {
        let error = open_pickle(&state_dict("emb.weight", &tensor("FloatStorage", "0", offset, shape, strides)));
        assert!(
            matches!(error, Error::Malformed { .. } | Error::MissingTensor { .. }),
            "{shape:?} {strides:?}: {error}"
        );
    }
    let negative = open_pickle(&state_dict("emb.weight", &tensor("FloatStorage", "0", -1, &[1], &[1])));
    assert!(negative.to_string().contains("cannot be"), "{negative}");
    let absent = open_pickle(&state_dict("emb.weight", &tensor("FloatStorage", "7", 0, &[1], &[1])));
    assert!(absent.to_string().contains("storage 7"), "{absent}");
    let integers = open_pickle(&state_dict("emb.weight", &tensor("LongStorage", "0", 0, &[32], &[1])));
    assert!(matches!(&integers, Error::Dtype { found, .. } if found == "int64"), "{integers}");
}

#[test]
fn dictionaries_of_other_things() {
    let converted = open_pickle(&state_dict("_strategy", &text("cpu fp32")));
    assert!(converted.to_string().contains("pip package"), "{converted}");
    let training = open_pickle(&state_dict("state_dict", b"}"));
    assert!(
        matches!(&training, Error::Unsupported { .. }) && training.to_string().contains("`state_dict`"),
        "{training}"
    );
    for value in [&b"N"[..], b"\x88", b"K\x01", b"G\0\0\0\0\0\0\0\0", b")", b"]"] {
        let error = open_pickle(&state_dict("epoch", value));
        assert!(error.to_string().contains("`epoch` is"), "{error}");
    }
    assert!(open_pickle(b"\x80\x02}K\x01K\x02s.").to_string().contains("not a string"));
}

#[test]
fn zips_of_other_things() {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(
        "readme.txt",
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
    )
    .unwrap();
    let other = open_bytes(&zip.finish().unwrap().into_inner()).unwrap_err();
    assert!(other.to_string().contains("without data.pkl"), "{other}");

    // Method 8, deflated, in the local header and in the directory.
    let mut bytes = pth(b"\x80\x02}.", &[]);
    let directory = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    (bytes[8], bytes[directory + 10]) = (8, 8);
    let packed = open_bytes(&bytes).unwrap_err();
    assert!(packed.to_string().contains("compressed"), "{packed}");
}

#[test]
fn safetensors_headers_that_lie() {
    let open = |header: &str| open_bytes(&with_header(header, &[0; 64])).unwrap_err().to_string();
    let tensor = |shape: &str, start: u64, end: u64| {
        format!(r#"{{"emb.weight": {{"dtype": "F32", "shape": {shape}, "data_offsets": [{start}, {end}]}}}}"#)
    };
    assert!(open(&tensor("[32]", 0, 128)).contains("needs"), "longer than the file");
    assert!(open(&tensor("[18446744073709551615]", 0, 64)).contains("cannot fill"));
    assert!(open(&tensor("[4294967296, 4294967296]", 0, 64)).contains("cannot fill"));
    assert!(open(&tensor("[16]", 64, 0)).contains("cannot fill"));
    assert!(open(&tensor("[8]", 32, 64)).contains("gap"));
    assert!(open(&tensor("[8]", 0, 32)).contains("end at byte 32"));
    assert!(open(&tensor("[-1]", 0, 64)).contains("damaged"));
    let far = u64::MAX - 3;
    let two = format!(
        r#"{{"a": {{"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}, "b": {{"dtype": "F32", "shape": [], "data_offsets": [{}, {}]}}}}"#,
        far - 1,
        far + 3
    );
    assert!(open(&two).contains("gap"));
    let overlap = r#"{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}, "b": {"dtype": "F32", "shape": [12], "data_offsets": [16, 64]}}"#;
    assert!(open(overlap).contains("overlap"));
    let twice = r#"{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}, "a": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}}"#;
    assert!(open(twice).contains("twice"));
    assert!(open(&"[".repeat(10_000)).contains("found the first bytes"));
    assert!(open(&format!("{{\"a\": {}", "[".repeat(10_000))).contains("damaged"));
    assert!(open("{}").contains("end at byte 0"));

    let oversized = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(open_bytes(&oversized).is_err());
    let oversized = [&90_000_000u64.to_le_bytes()[..], b"{}"].concat();
    let held = survive(&oversized);
    assert!(matches!(open_bytes(&oversized), Err(Error::Truncated { .. })));
    assert!(held < 1 << 20, "{held}");
}

#[test]
fn a_model_without_tensors() {
    assert!(open_bytes(&safetensors(&Tensors::new())).unwrap_err().to_string().contains("without tensors"));
    assert!(open_pickle(b"\x80\x02}.").to_string().contains("without tensors"));
}
