//! instantmirror-fuse
