//! The recurrences.
