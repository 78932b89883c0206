//! anser-checkpoint
