//! Time series as tables, and the forecasts that need no training.
