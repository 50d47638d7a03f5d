//! The behaviours of an [`ExpiryPolicy`]. A factory makes an empty one.

/// Stamps the suite: one `#[test]` per behaviour of an expiry policy. Takes a factory, a function without arguments that
/// returns a policy.
#[macro_export]
macro_rules! expiry_conformance {
    ($factory:expr) => {
        $crate::__conformance_tests! { expiry, $factory,
            an_empty_policy_has_no_victim
            a_victim_stays_until_it_is_said_to_be_gone
            everything_goes_once
            what_may_not_go_is_not_chosen_and_not_forgotten
            nothing_is_chosen_while_nothing_may_go
            what_was_removed_is_never_chosen
            a_handle_can_stand_for_another_object_later
            unknown_handles_change_nothing
            inserting_again_is_a_use
            what_is_used_again_outlives_what_is_not
            what_was_popular_once_goes_in_the_end
            a_memo_brings_the_same_worth_back
            a_memo_of_nonsense_does_no_harm
            random_use_keeps_every_promise
        }
    };
}
// end of the list

use std::collections::HashSet;

use crate::expiry::{Candidate, ExpiryPolicy, Handle};

fn candidate(handle: Handle) -> Candidate {
    Candidate {
        size: 5000,
        fingerprint: u64::from(handle).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

fn insert(policy: &mut impl ExpiryPolicy, handles: impl IntoIterator<Item = Handle>) {
    handles
        .into_iter()
        .for_each(|handle| policy.insert(handle, &candidate(handle)));
}

fn any(policy: &mut impl ExpiryPolicy) -> Option<Handle> {
    policy.victim(&mut |_| true)
}

fn evict(policy: &mut impl ExpiryPolicy) -> Option<Handle> {
    let victim = any(policy)?;
    policy.evicted(victim, &candidate(victim));
    Some(victim)
}

fn drain(policy: &mut impl ExpiryPolicy) -> Vec<Handle> {
    std::iter::from_fn(|| evict(policy)).take(100_000).collect()
}

/// Where there is nothing, nothing can go.
pub fn an_empty_policy_has_no_victim<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    assert_eq!(any(&mut policy), None);
    assert!(policy.is_empty());
}

/// Being chosen is not being gone: the cache may fail to give it up.
pub fn a_victim_stays_until_it_is_said_to_be_gone<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..5);
    let first = any(&mut policy).unwrap();
    assert_eq!(policy.len(), 5);
    assert_eq!(any(&mut policy), Some(first), "asked again, the answer is the same");
    policy.evicted(first, &candidate(first));
    assert_eq!(policy.len(), 4);
    assert_ne!(any(&mut policy), Some(first));
}

/// Nobody is chosen twice, nobody is left over.
pub fn everything_goes_once<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..100);
    (0..100)
        .filter(|handle| handle % 3 == 0)
        .for_each(|handle| policy.used(handle));
    let mut gone = drain(&mut policy);
    gone.sort_unstable();
    assert_eq!(gone, (0..100).collect::<Vec<_>>());
    assert_eq!(policy.len(), 0);
}

/// What is in use is passed over, and goes when it may.
pub fn what_may_not_go_is_not_chosen_and_not_forgotten<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..20);
    for _ in 0..10 {
        let victim = policy.victim(&mut |handle| handle % 2 == 1).unwrap();
        assert_eq!(victim % 2, 1);
        policy.evicted(victim, &candidate(victim));
    }
    assert_eq!(policy.len(), 10);
    assert_eq!(policy.victim(&mut |handle| handle % 2 == 1), None);
    assert_eq!(drain(&mut policy).len(), 10);
}

/// It says so and does not search for ever.
pub fn nothing_is_chosen_while_nothing_may_go<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..50);
    (0..50).for_each(|handle| policy.used(handle));
    let mut asked = 0;
    let victim = policy.victim(&mut |_| {
        asked += 1;
        false
    });
    assert_eq!(victim, None);
    assert!((50..=200).contains(&asked), "{asked}");
    assert_eq!(policy.len(), 50);
}

/// Gone is gone, for whatever reason.
pub fn what_was_removed_is_never_chosen<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..30);
    for handle in [0, 29, 15, 7, 1] {
        policy.removed(handle);
        policy.removed(handle);
    }
    let gone = drain(&mut policy);
    assert_eq!(gone.len(), 25);
    assert!([0, 29, 15, 7, 1].iter().all(|handle| !gone.contains(handle)));
}

/// Handles are places in a table; the next object in the place inherits nothing.
pub fn a_handle_can_stand_for_another_object_later<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..10);
    (0..5).for_each(|_| policy.used(3));
    policy.removed(3);
    let other = Candidate {
        size: 5000,
        fingerprint: 77,
    };
    let mut fresh = make();
    fresh.insert(3, &other);
    policy.insert(3, &other);
    assert_eq!(policy.memo(3), fresh.memo(3));
    assert_eq!(policy.len(), 10);
}

/// Calls that come late find nothing.
pub fn unknown_handles_change_nothing<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, [5]);
    for handle in [0, 4, 6, 1_000_000] {
        policy.used(handle);
        policy.evicted(handle, &candidate(handle));
        policy.removed(handle);
        let _ = policy.memo(handle);
    }
    assert_eq!(policy.len(), 1);
    assert_eq!(drain(&mut policy), [5]);
}

/// An object is here once.
pub fn inserting_again_is_a_use<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, (0..10).chain([4, 4, 4]));
    assert_eq!(policy.len(), 10);
    let gone = drain(&mut policy);
    assert_eq!(gone.len(), 10);
    assert_eq!(gone.last(), Some(&4));
}

/// The least that can be asked of a policy.
pub fn what_is_used_again_outlives_what_is_not<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..10);
    for handle in 10..1000 {
        (0..10).for_each(|hot| policy.used(hot));
        insert(&mut policy, [handle]);
        if policy.len() > 100 {
            assert!(evict(&mut policy).unwrap() >= 10);
        }
    }
}

/// Popularity does not last for ever.
pub fn what_was_popular_once_goes_in_the_end<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, [0]);
    (0..50).for_each(|_| policy.used(0));
    for handle in 1..100_000 {
        insert(&mut policy, [handle]);
        policy.used(handle);
        if policy.len() > 20 && evict(&mut policy) == Some(0) {
            return;
        }
    }
    panic!("it is still here");
}

/// What was written down puts the object where it was among others.
pub fn a_memo_brings_the_same_worth_back<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    insert(&mut policy, 0..40);
    for _ in 0..3 {
        (0..20).for_each(|handle| policy.used(handle * 2));
    }
    let mut later = make();
    for handle in 0..40 {
        later.restore(handle, &candidate(handle), policy.memo(handle));
    }
    assert_eq!(later.len(), 40);
    // Those that were not used since, or the older half of the used ones, but never a mixture that has lost all worth.
    let first: HashSet<_> = (0..20).filter_map(|_| evict(&mut policy)).collect();
    let again: HashSet<_> = (0..20).filter_map(|_| evict(&mut later)).collect();
    let order_alone = (0..20).collect::<HashSet<_>>();
    assert!(again == first || again == order_alone, "{again:?} instead of {first:?}");
}

/// Whatever a damaged file says, all objects can go.
pub fn a_memo_of_nonsense_does_no_harm<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    let nonsense = [0, u64::MAX, 1 << 63, 0x7fc0_0000_0000_0001, 0xff80_0000_0000_0000];
    for (handle, memo) in (0..).zip(nonsense) {
        policy.restore(handle, &candidate(handle), memo);
        policy.restore(handle, &candidate(handle), memo);
    }
    insert(&mut policy, 10..20);
    (0..5).for_each(|handle| policy.used(handle));
    assert_eq!(drain(&mut policy).len(), 15);
}

/// Whatever is called in whatever order, what is here is known and nothing else is chosen.
pub fn random_use_keeps_every_promise<P: ExpiryPolicy>(make: &dyn Fn() -> P) {
    let mut policy = make();
    let mut here: HashSet<Handle> = HashSet::new();
    let mut random = 7_u64;
    for _ in 0..20_000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let handle = u32::try_from(random >> 40 & 63).unwrap();
        match random >> 50 & 7 {
            0..=2 => {
                policy.insert(handle, &candidate(handle));
                here.insert(handle);
            }
            3 | 4 => policy.used(handle),
            5 => {
                policy.removed(handle);
                here.remove(&handle);
            }
            6 => {
                policy.restore(handle, &candidate(handle), random & 0xff);
                here.insert(handle);
            }
            _ => {
                let victim = policy.victim(&mut |candidate| candidate != handle);
                let may_go = here.iter().any(|known| *known != handle);
                assert_eq!(victim.is_some(), may_go);
                if let Some(victim) = victim {
                    assert!(here.remove(&victim) && victim != handle);
                    policy.evicted(victim, &candidate(victim));
                }
            }
        }
        assert_eq!(policy.len(), here.len());
    }
}
