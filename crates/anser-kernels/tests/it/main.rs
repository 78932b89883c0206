//! Tests of the kernels: golden files, references and properties.

mod activation;
mod backward456;
mod linear;
mod norm;
mod pool;
mod recurrence;
