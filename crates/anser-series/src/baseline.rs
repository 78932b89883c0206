//! Forecasts that any other must beat. A window is [L, M], its forecast [H, M], both row by row.

/// The last row again and again.
///
/// # Panics
/// When the window holds no whole row.
pub fn last_value(window: &[f64], width: usize, horizon: usize) -> Vec<f64> {
    seasonal_naive(window, width, 1, horizon)
}

/// What was one season ago: the last `period` rows repeated, or the whole window where it is shorter.
///
/// # Panics
/// When the window holds no whole row, or `period` is 0.
pub fn seasonal_naive(window: &[f64], width: usize, period: usize, horizon: usize) -> Vec<f64> {
    let rows = window.len() / width;
    assert!(rows > 0 && period > 0 && window.len().is_multiple_of(width), "a window of whole rows and a season");
    let season = &window[(rows - period.min(rows)) * width..];
    season.iter().copied().cycle().take(horizon * width).collect()
}

/// The straight line through the first and the last row, continued.
///
/// # Panics
/// When the window holds no whole row.
pub fn drift(window: &[f64], width: usize, horizon: usize) -> Vec<f64> {
    let rows = window.len() / width;
    assert!(rows > 0 && window.len().is_multiple_of(width), "a window of whole rows");
    let (first, last) = (&window[..width], &window[window.len() - width..]);
    let steps = (rows - 1).max(1) as f64;
    (1..=horizon)
        .flat_map(|h| first.iter().zip(last).map(move |(first, last)| last + (last - first) / steps * h as f64))
        .collect()
}
