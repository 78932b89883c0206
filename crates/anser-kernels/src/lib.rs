//! anser-kernels
