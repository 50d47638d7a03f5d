//! instantmirror-core
