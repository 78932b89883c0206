//! Trains models of the RWKV family.
