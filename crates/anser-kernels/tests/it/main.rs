//! Tests of the kernels: golden files, references and properties.

mod activation;
mod backward456;
mod backward7;
mod linear;
mod norm;
mod pool;
mod recurrence;
