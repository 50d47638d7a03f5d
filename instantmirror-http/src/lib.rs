//! instantmirror-http
