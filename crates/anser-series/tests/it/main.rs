//! Tests of anser-series.
