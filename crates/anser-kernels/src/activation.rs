//! activation (being written)
