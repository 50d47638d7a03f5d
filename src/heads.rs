//! Heads as masters and nodes show them alike: waiting for the next one, and what it says of grace.

use std::sync::Arc;

use instantmirror_core::SignedHead;
use instantmirror_core::companion::GraceRule;
use instantmirror_core::view::RepositoryState;
use tokio::sync::watch;

/// The rule with the globs of a configuration and of a head. Those of a newer master that cannot be read here count for
/// nothing.
pub(crate) fn rule_of(own: &[String], of_head: &[String], serves_optional: bool) -> GraceRule {
    let all = own.iter().chain(of_head).cloned();
    GraceRule::new(all, serves_optional).unwrap_or_else(|error| {
        tracing::debug!("the head's paths that grace leaves out cannot be read: {error}");
        GraceRule::new(own.iter().cloned(), serves_optional).unwrap_or_default()
    })
}

/// Waits for a head with a sequence number above `after`.
pub(crate) async fn head_after(
    mut state: watch::Receiver<Arc<RepositoryState>>,
    after: u64,
) -> Option<Arc<SignedHead>> {
    let newer = |state: &Arc<RepositoryState>| state.head.as_ref().is_some_and(|head| head.head().sequence > after);
    let state = state.wait_for(newer).await.ok()?;
    state.head.clone()
}
