//! Splits, windows and scales.

use anser_series::split::{Scaler, Split, origins};

use crate::util::{close, error};

#[test]
fn customary_splits() {
    let split = Split::ett_hourly();
    assert_eq!((split.train, split.validation, split.test), (0..8640, 8640..11_520, 11_520..14_400));
    let split = Split::ett_quarter_hourly();
    assert_eq!((split.train, split.validation, split.test), (0..34_560, 34_560..46_080, 46_080..57_600));
}

#[test]
fn fractions() {
    let split = Split::fractions(1000, 0.1, 0.2).unwrap();
    assert_eq!((split.train, split.validation, split.test), (0..700, 700..800, 800..1000));
    // The weather and electricity files, split as everybody does.
    let split = Split::fractions(52_696, 0.1, 0.2).unwrap();
    assert_eq!((split.train, split.validation, split.test), (0..36_887, 36_887..42_157, 42_157..52_696));
    let split = Split::fractions(26_304, 0.1, 0.2).unwrap();
    assert_eq!((split.train, split.validation, split.test), (0..18_413, 18_413..21_043, 21_043..26_304));
    let split = Split::fractions(10, 0.0, 0.0).unwrap();
    assert_eq!((split.train, split.validation, split.test), (0..10, 10..10, 10..10));
    for (rows, validation, test) in [(10, -0.1, 0.2), (10, 0.5, 0.5), (10, f64::NAN, 0.1), (10, 0.1, f64::INFINITY)] {
        let e = error(Split::fractions(rows, validation, test));
        assert_eq!(
            e,
            format!(
                "the fractions for validation and test is {validation} and {test}, expected two numbers from 0, together less than 1"
            )
        );
    }
    // Two rows, both taken by rounding.
    let e = error(Split::fractions(2, 0.3, 0.3));
    assert!(e.contains("0.3 and 0.3 of 2 rows, expected fractions that leave a row to learn from"), "{e}");
    assert!(Split::fractions(0, 0.1, 0.1).is_err());
}

#[test]
fn windows_of_the_customary_test() {
    let test = Split::ett_hourly().test;
    for (horizon, windows) in [(96, 2785), (192, 2689), (336, 2545), (720, 2161)] {
        let origins = origins(&test, 336, horizon);
        assert_eq!((origins.start, origins.len()), (11_520, windows));
        assert_eq!(origins.end - 1 + horizon, test.end);
    }
    assert_eq!(origins(&Split::ett_hourly().train, 336, 96), 336..8545);
    // A look-back does not reach over the beginning of the file, targets not over the end of their rows.
    assert_eq!(origins(&(5..20), 10, 3), 10..18);
    assert_eq!(origins(&(5..20), 10, 10), 10..11);
    assert!(origins(&(5..20), 10, 11).is_empty());
    assert!(origins(&(5..20), 30, 3).is_empty());
    assert!(origins(&(5..7), 2, 100).is_empty());
}

#[test]
fn scales() {
    let values = [1.0, 10.0, 0.1, 3.0, 10.0, 0.1, 5.0, 10.0, 0.1, 100.0, 0.0, 7.0];
    let scaler = Scaler::fit(&values, 3, 0..3);
    close(&scaler.mean, &[3.0, 10.0, 0.1], 1e-15);
    // Population deviation; 1 for what never changes, whatever rounding makes of its mean.
    close(&scaler.deviation, &[(8.0f64 / 3.0).sqrt(), 1.0, 1.0], 1e-15);
    let mut scaled = values;
    scaler.transform(&mut scaled);
    close(&scaled[..3], &[-1.5f64.sqrt(), 0.0, 0.0], 1e-15);
    close(&scaled[9..], &[97.0 / (8.0f64 / 3.0).sqrt(), -10.0, 6.9], 1e-15);
    scaler.inverse(&mut scaled);
    close(&scaled, &values, 1e-14);
    // Nothing but the rows given is learnt from.
    assert_eq!(Scaler::fit(&values[..9], 3, 0..3), scaler);
    close(&Scaler::fit(&values, 3, 3..4).deviation, &[1.0; 3], 0.0);
}

#[test]
#[should_panic(expected = "a scaler needs rows")]
fn a_scale_of_nothing() {
    Scaler::fit(&[1.0], 1, 1..1);
}
