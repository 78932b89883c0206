//! Rimer and Timer as they were released, against golden files.

use anser_checkpoint::{Ranks, Version};
use anser_nn::Error;
use anser_nn::gradients::values;
use anser_nn::model::rimer::{self, Taken};
use anser_nn::model::series::{Backbone, Patches, SeriesModel, SeriesSizes};
use anser_nn::model::timer;
use anser_nn::task::forecast::{Norm, Windows, gradients, predict, roll};
use anser_nn::task::stream::Stream;
use anser_testkit::{Golden, assert_close, max_abs};
use burn::tensor::Device;

const PATCH: usize = 8;

fn sizes(backbone: Backbone) -> SeriesSizes {
    let rimer = SeriesSizes {
        backbone,
        patch: PATCH,
        output: PATCH,
        skip: 0,
        width: 64,
        layers: 1,
        heads: 1,
        head_size: 64,
        ffn: 64,
        ranks: Ranks { mix: 0, decay: 64, a: 64, v: 16, g: 128 },
    };
    match backbone {
        Backbone::Timer => SeriesSizes { width: 32, layers: 2, heads: 4, head_size: 8, ffn: 64, ..rimer },
        _ => rimer,
    }
}

/// A tensor of ours in the published file's place: its own values, or those under `grad.`.
fn taken(golden: &Golden, prefix: &str, name: &str, shape: &[usize], backbone: Backbone) -> Vec<f32> {
    let published = if backbone == Backbone::Timer { timer::published } else { rimer::published };
    let (stored, taken) = published(name).unwrap_or_else(|| panic!("no published tensor for {name}"));
    let values = golden.f32(&format!("{prefix}{stored}"));
    match taken {
        Taken::AsItIs => values.to_vec(),
        Taken::Row(row) => values[row * shape[0]..(row + 1) * shape[0]].to_vec(),
        Taken::Turned => (0..shape[0]).flat_map(|i| (0..shape[1]).map(move |j| values[j * shape[0] + i])).collect(),
    }
}

fn model(golden: &Golden, backbone: Backbone) -> SeriesModel {
    let mut read = |name: &str, shape: &[usize]| Ok::<_, Error>(taken(golden, "", name, shape, backbone));
    SeriesModel::new(&sizes(backbone), &Device::flex().autodiff(), &mut read).unwrap()
}

/// The channels of x [B, L, M], one after the other.
fn channels(golden: &Golden, name: &str) -> Vec<Vec<f32>> {
    let (shape, x) = (golden.shape(name), golden.f32(name));
    let [batch, length, width] = [shape[0], shape[1], shape[2]];
    let at = |b: usize, m: usize| (0..length).map(|t| x[(b * length + t) * width + m]).collect();
    (0..batch).flat_map(|b| (0..width).map(move |m| (b, m))).map(|(b, m)| at(b, m)).collect()
}

fn patches(rows: &[Vec<f32>], norms: &[Norm]) -> Patches {
    let mut ends = vec![0];
    rows.iter().for_each(|row| ends.push(ends[ends.len() - 1] + row.len() / PATCH));
    let values = rows.iter().zip(norms).flat_map(|(row, norm)| row.iter().map(|&x| norm.apply(x))).collect();
    Patches { values, cu_seqlens: ends.into(), asked: None }
}

fn check(name: &str, backbone: Backbone) {
    let golden = Golden::open(name);
    let model = model(&golden, backbone);
    let rows = channels(&golden, "in.x");
    let future = channels(&golden, "in.future");
    let norms: Vec<Norm> = rows.iter().map(|row| Norm::of(row)).collect();
    let input = patches(&rows, &norms);
    let length = rows[0].len();

    // Outputs, and the state they leave.
    let plain = model.without_graph();
    let mut state = plain.initial_state(rows.len());
    let out = values(plain.forward(&input, &mut state));
    let undone = |z: &[f32], norm: &Norm| z.iter().map(|&z| norm.undo(z)).collect::<Vec<_>>();
    let got: Vec<f32> = out.chunks(length).zip(&norms).flat_map(|(z, norm)| undone(z, norm)).collect();
    assert_close("y", &got, &channels(&golden, "out.y").concat(), 3e-5);
    if backbone == Backbone::RimerReleased {
        // The file has [value, key].
        let (got, want) = (values(state.blocks[0].wkv.clone()), golden.f32("state.S"));
        let turned: Vec<f32> = got
            .chunks(64 * 64)
            .flat_map(|s| (0..64).flat_map(move |value| (0..64).map(move |key| s[key * 64 + value])))
            .collect();
        assert_close("state", &turned, want, 3e-5);
    }

    // The loss of every next patch in the values' own units, and its gradient.
    let count = (rows.len() * length) as f32;
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for ((row, future), norm) in rows.iter().zip(&future).zip(&norms) {
        targets.extend(row[PATCH..].iter().chain(future).map(|&x| norm.apply(x)));
        weights.extend((0..length).map(|_| norm.deviation.powi(2) / count));
    }
    let step = gradients(&model, &Windows { patches: input, targets, weights });
    assert_close("loss", &[step.loss], golden.f32("out.loss_next_patch"), 1e-5);
    let mut compared = 0;
    for (tensor, gradient) in &step.gradients.tensors {
        let shape = shape_of(&model, tensor);
        let want = taken(&golden, "grad.", tensor, &shape, backbone);
        assert_close(&format!("gradient of {tensor}"), gradient, &want, 1e-4 * max_abs(&want) + 1e-6);
        compared += 1;
    }
    // Six shifts are one tensor in Rimer's file; the gradient of the input is no parameter's.
    let shifts = if backbone == Backbone::Timer { 0 } else { 5 };
    let stored = golden.names().filter(|name| name.starts_with("grad.") && !name.ends_with("in.x")).count();
    assert_eq!(compared, stored + shifts);

    // The released training loss: the last channel a row later, in normalised units.
    let channels_of = golden.shape("in.x")[2];
    let (mut sum, mut terms) = (0.0f64, 0);
    for row in (channels_of - 1..rows.len()).step_by(channels_of) {
        let shifted = rows[row][1..].iter().chain(&future[row][..1]);
        for (&z, &x) in out[row * length..(row + 1) * length].iter().zip(shifted) {
            sum += f64::from(norms[row].undo(z) - x).powi(2);
            terms += 1;
        }
    }
    assert_close(
        "loss a row later",
        &[(sum / f64::from(terms)) as f32],
        golden.f32("out.loss_shift1_lastchannel"),
        1e-5,
    );

    // Two patches, one after the other: the oldest leaves, the prediction enters.
    let mut windows = rows.clone();
    let mut rolled = vec![Vec::new(); rows.len()];
    for _ in 0..2 {
        let norms: Vec<Norm> = windows.iter().map(|row| Norm::of(row)).collect();
        let mut input = patches(&windows, &norms);
        input.asked = Some(Patches::last(&input.cu_seqlens));
        let next = predict(&plain, &input);
        for (row, (z, norm)) in next.chunks(PATCH).zip(&norms).enumerate() {
            let patch = undone(z, norm);
            windows[row].drain(..PATCH);
            windows[row].extend(&patch);
            rolled[row].extend(patch);
        }
    }
    assert_close("roll-out", &rolled.concat(), &channels(&golden, "out.rollout2").concat(), 5e-5);
}

fn shape_of(model: &SeriesModel, tensor: &str) -> Vec<usize> {
    use anser_nn::gradients::Trainable;
    let mut found = None;
    model.read(|name, shape, _| {
        if name == tensor {
            found = Some(shape.to_vec());
        }
    });
    found.unwrap()
}

#[test]
fn rimer_as_released() {
    check("series/rimer_tiny", Backbone::RimerReleased);
}

#[test]
fn timer_as_published() {
    check("series/timer_tiny", Backbone::Timer);
}

/// Values that a name and a place decide.
fn seeded(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    anser_testkit::Rng(seed).vec(shape.iter().product(), 0.3)
}

fn every_backbone() -> Vec<SeriesSizes> {
    let versions = [Version::V4, Version::V5_2, Version::V6, Version::V7].map(Backbone::Rwkv);
    versions
        .into_iter()
        .chain([Backbone::RimerReleased, Backbone::Transformer, Backbone::Timer])
        .map(|backbone| SeriesSizes {
            backbone,
            patch: 4,
            output: 6,
            skip: 3,
            width: 16,
            layers: if backbone == Backbone::RimerReleased { 1 } else { 2 },
            heads: if backbone == Backbone::Rwkv(Version::V4) { 1 } else { 2 },
            head_size: if backbone == Backbone::Rwkv(Version::V4) { 16 } else { 8 },
            ffn: 24,
            ranks: Ranks { mix: 4, decay: 4, a: 4, v: 4, g: 4 },
        })
        .collect()
}

/// A row does not depend on the rows beside it, an answer not on what else is asked for, and a row that is fed patch by
/// patch ends where one that is fed at once does.
#[test]
fn rows_stand_alone_and_states_carry() {
    for sizes in every_backbone() {
        let model = SeriesModel::new(&sizes, &Device::flex(), &mut |name, shape| Ok(seeded(name, shape))).unwrap();
        let values_of = |seed: u64, count: usize| anser_testkit::Rng(seed).vec(count * 4, 1.5);
        let (one, two) = (values_of(1, 5), values_of(2, 3));
        let alone = |x: &[f32]| {
            predict(&model, &Patches { values: x.to_vec(), cu_seqlens: [0, x.len() / 4].into(), asked: None })
        };
        let both = Patches { values: [&one[..], &two].concat(), cu_seqlens: [0, 5, 8].into(), asked: None };
        let together = predict(&model, &both);
        assert_eq!(together, [alone(&one), alone(&two)].concat(), "{:?}: rows beside each other", sizes.backbone);
        let last = predict(&model, &Patches { asked: Some(Patches::last(&both.cu_seqlens)), ..both });
        let of = |token: usize| &together[token * 6..(token + 1) * 6];
        assert_eq!(last, [of(4), of(7)].concat(), "{:?}: only the last", sizes.backbone);
        if !sizes.has_state() {
            continue;
        }
        let mut state = model.initial_state(1);
        let mut fed = Vec::new();
        for patch in one.chunks(4) {
            let patch = Patches { values: patch.to_vec(), cu_seqlens: [0, 1].into(), asked: None };
            fed.extend(values(model.forward(&patch, &mut state)));
        }
        assert_eq!(fed, alone(&one), "{:?}: patch by patch", sizes.backbone);
    }
}

/// What comes later changes nothing that was said before.
#[test]
fn nothing_looks_ahead() {
    for sizes in every_backbone() {
        let model = SeriesModel::new(&sizes, &Device::flex(), &mut |name, shape| Ok(seeded(name, shape))).unwrap();
        let one = anser_testkit::Rng(3).vec(20, 1.0);
        let mut other = one.clone();
        other[12..].fill(9.0);
        let all = |x: Vec<f32>| predict(&model, &Patches { values: x, cu_seqlens: [0, 5].into(), asked: None });
        let (one, other) = (all(one), all(other));
        assert_eq!(one[..3 * 6], other[..3 * 6], "{:?}", sizes.backbone);
        assert_ne!(one[3 * 6..], other[3 * 6..], "{:?}", sizes.backbone);
    }
}

#[test]
fn sizes_that_cannot_be() {
    let good = sizes(Backbone::Rwkv(Version::V7));
    let refused = |sizes: SeriesSizes| {
        SeriesModel::new(&sizes, &Device::flex(), &mut |name, shape| Ok(seeded(name, shape))).unwrap_err().to_string()
    };
    assert!(refused(SeriesSizes { patch: 0, ..good.clone() }).contains("patch is 0"));
    assert!(refused(SeriesSizes { head_size: 48, ..good.clone() }).contains("48 channels"));
    assert!(
        refused(SeriesSizes { backbone: Backbone::Timer, head_size: 7, heads: 4, ..good.clone() }).contains("even")
    );
    assert!(refused(SeriesSizes { backbone: Backbone::Rwkv(Version::V5_0), ..good.clone() }).contains("5.0"));
    let nan = SeriesModel::new(&good, &Device::flex(), &mut |_, shape| Ok(vec![f32::NAN; shape.iter().product()]));
    assert!(nan.unwrap_err().to_string().contains("patch.weight"));
}

/// A stream's forecasts of 2 columns, in the rows' own units.
fn streamed(model: &SeriesModel, rows: &[[f32; 2]], look_back: usize, horizon: usize) -> Option<Vec<f32>> {
    let mut stream = Stream::new(model, 2, look_back).unwrap();
    rows.iter().for_each(|row| stream.push(row));
    stream.forecast(horizon)
}

/// `count` rows of 2 columns.
fn rows(seed: u64, count: usize) -> Vec<[f32; 2]> {
    anser_testkit::Rng(seed).vec(2 * count, 1.5).as_chunks::<2>().0.to_vec()
}

fn column(rows: &[[f32; 2]], m: usize) -> Vec<f32> {
    rows.iter().map(|row| row[m]).collect()
}

/// [H, 2] of the forecasts of two columns.
fn rowwise(columns: [Vec<f32>; 2]) -> Vec<f32> {
    (0..columns[0].len()).flat_map(|h| [columns[0][h], columns[1][h]]).collect()
}

/// Patches of 4, predictions of 8: a stream needs whole patches to go on from.
fn with_states() -> impl Iterator<Item = SeriesModel> {
    let sizes = every_backbone().into_iter().filter(SeriesSizes::has_state);
    sizes.map(|sizes| {
        let sizes = SeriesSizes { output: 8, ..sizes };
        SeriesModel::new(&sizes, &Device::flex(), &mut |name, shape| Ok(seeded(name, shape))).unwrap()
    })
}

/// With the rows of one window, a stream says what the window alone does, to the bit.
#[test]
fn a_stream_begins_where_a_window_ends() {
    for model in with_states() {
        let rows = rows(5, 12);
        assert_eq!(streamed(&model, &rows[..11], 12, 8), None);
        let window = |m| roll(&model, &column(&rows, m), 12, 8);
        let want = rowwise([window(0), window(1)]);
        assert_eq!(streamed(&model, &rows, 12, 8), Some(want), "{}", model.sizes().backbone);
    }
}

/// Row by row, a stream says what all its rows at once do, under the first window's mean and deviation; and further on,
/// what they and its own predictions do.
#[test]
fn a_stream_carries_its_state() {
    const L: usize = 40;
    for model in with_states() {
        let rows = rows(6, L + 9);
        for more in 1..10 {
            let seen = &rows[..L + more];
            let one = |m: usize| {
                let norm = Norm::of(&column(&rows[..L], m));
                // The way to cut that the last row ends a patch in.
                let mut values: Vec<f32> = column(&seen[more % PATCHES..], m).iter().map(|&x| norm.apply(x)).collect();
                let mut said = Vec::new();
                while said.len() < 20 {
                    let ends: Vec<usize> = vec![0, values.len() / PATCHES];
                    let asked = Some(Patches::last(&ends));
                    let next = predict(&model, &Patches { values: values.clone(), cu_seqlens: ends.into(), asked });
                    said.extend(next.iter().map(|&z| norm.undo(z)));
                    values.extend(next);
                }
                said.truncate(20);
                said
            };
            let got = streamed(&model, seen, L, 20);
            assert_eq!(got, Some(rowwise([one(0), one(1)])), "{} after {more}", model.sizes().backbone);
        }
    }
}

const PATCHES: usize = 4;

/// What a stream says depends on its last rows alone: states age, but not without end.
#[test]
fn a_stream_forgets() {
    for model in with_states() {
        let (one, other) = (rows(7, 200), rows(8, 200));
        let join = |start: &[[f32; 2]]| [start, &one[60..]].concat();
        let (one, other) = (join(&one[..60]), join(&other[..60]));
        let say = |rows: &[[f32; 2]]| streamed(&model, rows, 40, 8);
        assert_ne!(say(&one[..64]), say(&other[..64]), "{}", model.sizes().backbone);
        assert_eq!(say(&one), say(&other), "{}", model.sizes().backbone);
    }
}

#[test]
fn streams_that_cannot_be() {
    let refused = |backbone: Backbone, output, look_back| {
        let sizes = every_backbone().into_iter().find(|sizes| sizes.backbone == backbone).unwrap();
        let sizes = SeriesSizes { output, ..sizes };
        let model = SeriesModel::new(&sizes, &Device::flex(), &mut |name, shape| Ok(seeded(name, shape))).unwrap();
        Stream::new(&model, 1, look_back).err().map(|error| error.to_string())
    };
    assert!(refused(Backbone::Timer, 8, 12).unwrap().contains("timer keeps no state"));
    assert!(refused(Backbone::Rwkv(Version::V7), 8, 13).unwrap().contains("look-back of 13"));
    assert!(refused(Backbone::Rwkv(Version::V7), 6, 12).unwrap().contains("multiples of the patch of 4"));
    assert!(refused(Backbone::Rwkv(Version::V7), 8, 12).is_none());
}

/// A window of any length is forecast from its last whole patches, a long horizon from one's own predictions.
#[test]
fn windows_roll_on() {
    for sizes in every_backbone() {
        let model = SeriesModel::new(&sizes, &Device::flex(), &mut |name, shape| Ok(seeded(name, shape))).unwrap();
        let x = anser_testkit::Rng(9).vec(2 * 14, 1.0);
        let far = roll(&model, &x, 14, 15);
        assert_eq!(far.len(), 30);
        let second = roll(&model, &x[14..], 14, 15);
        assert_eq!(far[15..], second, "{}: a window beside another", sizes.backbone);
        let near = roll(&model, &x[16..], 12, 6);
        assert_eq!(near, second[..6], "{}: the last whole patches", sizes.backbone);
        let next = roll(&model, &[&x[22..], &near[..]].concat(), 12, 6);
        assert_eq!(next, second[6..12], "{}: on from its own", sizes.backbone);
    }
}
