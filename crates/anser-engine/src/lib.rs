//! anser-engine
