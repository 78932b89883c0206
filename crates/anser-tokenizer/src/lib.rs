//! anser-tokenizer
