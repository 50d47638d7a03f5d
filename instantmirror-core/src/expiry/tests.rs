//! Each policy against a model that is too slow and too simple to be wrong.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Insert(u32),
    Use(u32),
    Remove(u32),
    Evict,
    Stand(u32, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u32..12).prop_map(Op::Insert),
        5 => (0u32..12).prop_map(Op::Use),
        1 => (0u32..12).prop_map(Op::Remove),
        3 => Just(Op::Evict),
        1 => (0u32..12, 1u8..5).prop_map(|(handle, code)| Op::Stand(handle, code)),
    ]
}

fn candidate(handle: u32) -> Candidate {
    Candidate {
        size: 1024 * u64::from(handle % 5 + 1),
        fingerprint: u64::from(handle),
    }
}

/// A policy as a list that is searched from its beginning.
trait Model {
    fn insert(&mut self, handle: u32);
    fn used(&mut self, handle: u32);
    fn removed(&mut self, handle: u32);
    /// All that may be the next victim.
    fn victims(&mut self) -> Vec<u32>;
    fn evicted(&mut self, handle: u32);
    fn contains(&self, handle: u32) -> bool;
}

#[derive(Default)]
struct LruModel(Vec<u32>);

impl Model for LruModel {
    fn insert(&mut self, handle: u32) {
        self.0.retain(|known| *known != handle);
        self.0.push(handle);
    }
    fn used(&mut self, handle: u32) {
        if self.contains(handle) {
            self.insert(handle);
        }
    }
    fn removed(&mut self, handle: u32) {
        self.0.retain(|known| *known != handle);
    }
    fn victims(&mut self) -> Vec<u32> {
        self.0.first().copied().into_iter().collect()
    }
    fn evicted(&mut self, handle: u32) {
        self.removed(handle);
    }
    fn contains(&self, handle: u32) -> bool {
        self.0.contains(&handle)
    }
}

#[derive(Default)]
struct KeyedModel {
    by_size: bool,
    age: f64,
    keys: HashMap<u32, (f64, u32)>,
}

impl KeyedModel {
    fn key(&self, handle: u32, uses: u32) -> f64 {
        let size = if self.by_size {
            f64::from(handle % 5 + 1) / 1024.0
        } else {
            1.0
        };
        self.age + f64::from(uses) / size
    }
}

impl Model for KeyedModel {
    fn insert(&mut self, handle: u32) {
        let uses = self.keys.get(&handle).map_or(0, |(_, uses)| *uses) + 1;
        self.keys.insert(handle, (self.key(handle, uses), uses));
    }
    fn used(&mut self, handle: u32) {
        if self.contains(handle) {
            self.insert(handle);
        }
    }
    fn removed(&mut self, handle: u32) {
        self.keys.remove(&handle);
    }
    fn victims(&mut self) -> Vec<u32> {
        let lowest = self.keys.values().map(|(key, _)| *key).fold(f64::INFINITY, f64::min);
        let lowest = self.keys.iter().filter(|(_, (key, _))| (key - lowest).abs() < 1e-6);
        lowest.map(|(handle, _)| *handle).collect()
    }
    fn evicted(&mut self, handle: u32) {
        if let Some((key, _)) = self.keys.remove(&handle) {
            self.age = self.age.max(key);
        }
    }
    fn contains(&self, handle: u32) -> bool {
        self.keys.contains_key(&handle)
    }
}

#[derive(Default)]
struct S3Model {
    small: Vec<(u32, u8)>,
    main: Vec<(u32, u8)>,
    ghosts: Vec<u32>,
}

impl S3Model {
    fn kib(list: &[(u32, u8)]) -> u32 {
        list.iter().map(|(handle, _)| handle % 5 + 1).sum()
    }
}

impl Model for S3Model {
    fn insert(&mut self, handle: u32) {
        if self.contains(handle) {
            return self.used(handle);
        }
        if let Some(at) = self.ghosts.iter().position(|ghost| *ghost == handle) {
            self.ghosts.remove(at);
            self.main.push((handle, 0));
        } else {
            self.small.push((handle, 0));
        }
    }
    fn used(&mut self, handle: u32) {
        for (known, uses) in self.small.iter_mut().chain(&mut self.main) {
            if *known == handle {
                *uses = (*uses + 1).min(3);
            }
        }
    }
    fn removed(&mut self, handle: u32) {
        self.small.retain(|(known, _)| *known != handle);
        self.main.retain(|(known, _)| *known != handle);
    }
    fn victims(&mut self) -> Vec<u32> {
        loop {
            let (small, main) = (Self::kib(&self.small), Self::kib(&self.main));
            let from_small = !self.small.is_empty() && (small * 10 > small + main || self.main.is_empty());
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some((handle, uses)) = queue.first().copied() else {
                return vec![];
            };
            if uses == 0 {
                return vec![handle];
            }
            queue.remove(0);
            self.main.push((handle, if from_small { 0 } else { uses - 1 }));
        }
    }
    fn evicted(&mut self, handle: u32) {
        if self.small.iter().any(|(known, _)| *known == handle) {
            self.ghosts.push(handle);
        }
        self.removed(handle);
    }
    fn contains(&self, handle: u32) -> bool {
        self.small.iter().chain(&self.main).any(|(known, _)| *known == handle)
    }
}

fn check(mut policy: impl ExpiryPolicy, mut model: impl Model, ops: &[Op]) {
    for op in ops {
        match *op {
            Op::Insert(handle) => {
                policy.insert(handle, &candidate(handle));
                model.insert(handle);
            }
            Op::Use(handle) => {
                policy.used(handle);
                model.used(handle);
            }
            Op::Remove(handle) => {
                policy.removed(handle);
                model.removed(handle);
            }
            Op::Evict | Op::Stand(..) => {
                let victims = model.victims();
                match policy.victim(&mut |_| true) {
                    Some(victim) => {
                        assert!(victims.contains(&victim), "{victim} instead of one of {victims:?}");
                        policy.evicted(victim, &candidate(victim));
                        model.evicted(victim);
                    }
                    None => assert!(victims.is_empty()),
                }
            }
        }
        assert_eq!(policy.len(), (0..12).filter(|handle| model.contains(*handle)).count());
    }
}

proptest! {
    #[test]
    fn lru_does_as_its_model(ops in prop::collection::vec(op(), 0..200)) {
        check(Lru::new(), LruModel::default(), &ops);
    }

    #[test]
    fn gdsf_does_as_its_model(ops in prop::collection::vec(op(), 0..200)) {
        check(Keyed::gdsf(), KeyedModel { by_size: true, ..KeyedModel::default() }, &ops);
    }

    #[test]
    fn lfuda_does_as_its_model(ops in prop::collection::vec(op(), 0..200)) {
        check(Keyed::lfuda(), KeyedModel::default(), &ops);
    }

    #[test]
    fn s3_fifo_does_as_its_model(ops in prop::collection::vec(op(), 0..200)) {
        check(S3Fifo::new(), S3Model::default(), &ops);
    }

    /// Garbage before old before live, each by last use; kept never; and what is written down brings all of it back.
    #[test]
    fn snapshots_come_before_the_policy(ops in prop::collection::vec(op(), 0..200)) {
        let mut order = SnapshotOrder::new(Lru::new());
        // Standing, by last use.
        let mut model: Vec<(u32, Standing)> = Vec::new();
        for op in ops {
            let place = |model: &Vec<(u32, Standing)>, handle| model.iter().position(|(known, _)| *known == handle);
            match op {
                Op::Insert(handle) => {
                    order.insert(handle, &candidate(handle));
                    let standing = place(&model, handle).map_or(Standing::Live, |at| model.remove(at).1);
                    model.push((handle, standing));
                }
                Op::Use(handle) => {
                    order.used(handle);
                    if let Some(at) = place(&model, handle) {
                        let used = model.remove(at);
                        model.push(used);
                    }
                }
                Op::Remove(handle) => {
                    order.removed(handle);
                    model.retain(|(known, _)| *known != handle);
                }
                Op::Stand(handle, code) => {
                    let standing = Standing::from_code(code);
                    order.set_standing(handle, standing, &candidate(handle));
                    if let Some(at) = place(&model, handle).filter(|at| model[*at].1 != standing) {
                        model[at].1 = standing;
                        if standing == Standing::Live {
                            // New to the policy, though not used.
                            order.used(handle);
                            let moved = model.remove(at);
                            model.push(moved);
                        }
                    }
                }
                Op::Evict => {
                    let mut expected = None;
                    for standing in [Standing::Garbage, Standing::Old, Standing::Live] {
                        let first = model.iter().find(|(_, known)| *known == standing);
                        expected = expected.or(first.map(|(handle, _)| *handle));
                    }
                    let victim = order.victim(&mut |_| true);
                    prop_assert_eq!(victim, expected);
                    if let Some(victim) = victim {
                        order.evicted(victim, &candidate(victim));
                        model.retain(|(known, _)| *known != victim);
                    }
                }
            }
            prop_assert_eq!(order.len(), model.len());
        }
        let mut later = SnapshotOrder::new(Lru::new());
        for (handle, _) in &model {
            later.recall(*handle, &candidate(*handle), &order.remember(*handle));
        }
        let drain = |order: &mut SnapshotOrder<Lru>| {
            let mut gone = Vec::new();
            while let Some(victim) = order.victim(&mut |_| true) {
                order.evicted(victim, &candidate(victim));
                gone.push((victim, order.standing(victim)));
            }
            gone
        };
        prop_assert_eq!(drain(&mut later), drain(&mut order));
    }
}

#[test]
fn kept_objects_never_go() {
    let mut order = SnapshotOrder::of_kind(PolicyKind::S3Fifo);
    for handle in 0..3 {
        order.insert(handle, &candidate(handle));
        order.set_standing(handle, Standing::Kept, &candidate(handle));
    }
    assert_eq!(order.victim(&mut |_| true), None);
    order.set_standing(1, Standing::Garbage, &candidate(1));
    assert_eq!(order.victim(&mut |_| true), Some(1));
    assert_eq!((order.len(), order.counts()), (3, (1, 0)));
    let size = candidate(1).size;
    assert_eq!(order.garbage_bytes(), size);
    order.used(1);
    assert_eq!(order.garbage_bytes(), size);
    order.set_standing(1, Standing::Old, &candidate(1));
    assert_eq!(order.garbage_bytes(), 0);
    order.set_standing(1, Standing::Garbage, &candidate(1));
    order.removed(1);
    assert_eq!((order.garbage_bytes(), order.counts()), (0, (0, 0)));
}

#[test]
fn a_large_object_counts_less_for_gdsf_and_the_same_for_lfuda() {
    let sizes = [1 << 30, 1000];
    for (mut policy, first) in [(Keyed::gdsf(), 0), (Keyed::lfuda(), 1)] {
        for (handle, size) in (0..).zip(sizes) {
            policy.insert(handle, &Candidate { size, fingerprint: 0 });
        }
        (0..3).for_each(|_| policy.used(0));
        policy.used(1);
        assert_eq!(policy.victim(&mut |_| true), Some(first));
    }
}

#[test]
fn what_is_asked_for_once_pushes_nothing_out_of_s3_fifo_s_main_queue() {
    let mut policy = S3Fifo::new();
    for handle in 0..90 {
        policy.insert(handle, &candidate(handle));
        policy.used(handle);
    }
    for handle in 100..10_000 {
        policy.insert(handle, &candidate(handle));
        while policy.len() > 100 {
            let victim = policy.victim(&mut |_| true).unwrap();
            policy.evicted(victim, &candidate(victim));
            assert!(victim >= 100, "{victim}");
        }
    }
    // What went lately is welcome.
    policy.insert(9_950, &candidate(9_950));
    assert_eq!(policy.memo(9_950), 128);
}

#[test]
fn names_are_those_of_the_configuration() {
    for kind in PolicyKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert!("LRU".parse::<PolicyKind>().is_err());
    assert_eq!(
        fingerprint(&ObjectId::of(b"")),
        u64::from_be_bytes(ObjectId::of(b"").as_bytes()[..8].try_into().unwrap())
    );
}
