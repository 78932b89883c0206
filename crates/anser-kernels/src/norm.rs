//! norm (being written)
