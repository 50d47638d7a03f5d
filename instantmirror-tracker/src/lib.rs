//! instantmirror-tracker
