//! Tests of the kernels: golden files, references and properties.

mod activation;
mod alloc;
mod backward456;
mod backward7;
mod dense;
mod linear;
mod norm;
mod optimizer;
mod pool;
mod quant;
mod recurrence;
