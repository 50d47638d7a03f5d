//! instantmirror-swarm
