//! Suites that every implementation of a trait passes.
