//! Tests of the kernels: golden files, references and properties.

mod activation;
mod linear;
mod norm;
mod pool;
mod recurrence;
