//! InstantMirror: the facade crate.
