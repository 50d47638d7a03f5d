//! instantmirror-store
