//! The behaviours of an object cache that concern room: reservations, the limit, eviction and removal.

use super::{Fill, G, GROUP, Handle, account, begin, id, is_here, limit_for, open, put};
use crate::conformance::{ReadNow as _, WriteNow as _};
use crate::conformance::{Subject, block_on, content};
use crate::traits::{CacheError, ObjectCache};

/// What a fill may need is promised to it before it begins, and given to nobody else.
pub fn room_is_reserved_before_a_fill_begins<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[2 * GROUP, 3 * GROUP]));
    let data = content(1, 3 * G);
    let fill = begin(&*cache, &data).unwrap();
    assert_eq!(account(&*cache), (0, 3 * GROUP));
    let other = block_on(cache.fill(&id(&content(2, 3 * G)), 3 * GROUP));
    assert!(matches!(other, Err(CacheError::Full { .. })));
    assert_eq!(account(&*cache), (0, 3 * GROUP));
    put(&*cache, &content(3, 2 * G));
    assert_eq!(account(&*cache), (2 * GROUP, 3 * GROUP));
    fill.write_now(0, &data).unwrap();
    block_on(fill.finish()).unwrap();
    assert_eq!(account(&*cache), (5 * GROUP, 0));
}

/// Whatever is filled, dropped, opened and removed in whatever order: never a byte beyond the limit.
pub fn the_limit_holds_at_every_step<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(Some(8 * GROUP + 77));
    let objects: Vec<_> = (0..12_u8)
        .map(|seed| content(seed, (usize::from(seed) % 5) * G + usize::from(seed)))
        .collect();
    let mut random = 1_u64;
    let mut fills: Vec<(Fill, usize)> = Vec::new();
    let mut handles: Vec<(Handle, usize)> = Vec::new();
    for _ in 0..400 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (action, which) = (
            random >> 40 & 7,
            usize::from((random >> 48).to_le_bytes()[0]) % objects.len(),
        );
        let data = &objects[which];
        match action {
            0 | 1 => match begin(&*cache, data) {
                Ok(fill) => fills.push((fill, which)),
                Err(CacheError::Full { .. } | CacheError::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            },
            2 | 3 if !fills.is_empty() => {
                let (fill, which) = &fills[which % fills.len()];
                if let Some(gap) = fill.handle().present().gap(0..objects[*which].len() as u64) {
                    let (start, end) = (usize::try_from(gap.start).unwrap(), usize::try_from(gap.end).unwrap());
                    fill.write_now(gap.start, &objects[*which][start..end.min(start + G)])
                        .unwrap();
                } else {
                    block_on(fill.finish()).unwrap();
                }
            }
            4 if !fills.is_empty() => drop(fills.swap_remove(which % fills.len())),
            5 => handles.extend(open(&*cache, data).map(|handle| (handle, which))),
            6 if !handles.is_empty() => drop(handles.swap_remove(which % handles.len())),
            7 => drop(block_on(cache.remove(&id(data)))),
            _ => {}
        }
        account(&*cache);
        for (handle, which) in &handles {
            for range in handle.present().ranges() {
                let (start, end) = (
                    usize::try_from(range.start).unwrap(),
                    usize::try_from(range.end).unwrap(),
                );
                assert_eq!(handle.read_now(range.clone()).unwrap(), objects[*which][start..end]);
            }
        }
    }
    drop((fills, handles));
    assert_eq!(account(&*cache).1, 0, "something is still promised");
}

/// What was not used for longest makes room, and opening is a use.
pub fn the_least_recently_used_goes_first<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[1000; 3]));
    let objects: Vec<_> = (0..5).map(|seed| content(seed, 1000)).collect();
    objects[..3].iter().for_each(|data| put(&*cache, data));
    assert!(is_here(&*cache, &objects[0]));
    put(&*cache, &objects[3]);
    assert!(open(&*cache, &objects[1]).is_none());
    assert!(is_here(&*cache, &objects[0]));
    put(&*cache, &objects[4]);
    assert!(open(&*cache, &objects[2]).is_none());
    assert!([0, 3, 4].iter().all(|&i| is_here(&*cache, &objects[i])));
    let usage = cache.usage();
    assert_eq!((usage.evicted, usage.objects), (2, 3));
}

/// A handle keeps its object's bytes and its name, however much room is asked for.
pub fn open_objects_are_never_given_up<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[1000; 2]).max(limit_for(make, &[2000])));
    let (kept, idle) = (content(1, 1000), content(2, 1000));
    put(&*cache, &kept);
    let handle = open(&*cache, &kept).unwrap();
    put(&*cache, &idle);
    for seed in 10..20 {
        put(&*cache, &content(seed, 1000));
        assert_eq!(handle.read_now(0..1000).unwrap(), kept);
        assert!(is_here(&*cache, &kept));
    }
    drop(handle);
    put(&*cache, &content(21, 2000));
    assert!(open(&*cache, &kept).is_none());
}

/// Nor is an object given up that is being filled, even if nobody reads it.
pub fn objects_being_filled_are_never_given_up<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[2 * GROUP, GROUP]));
    let data = content(1, 2 * G);
    let fill = begin(&*cache, &data).unwrap();
    fill.write_now(0, &data[..G]).unwrap();
    for seed in 10..15 {
        put(&*cache, &content(seed, G));
    }
    let refused = block_on(cache.fill(&id(&content(16, 2 * G)), 2 * GROUP));
    assert!(matches!(refused, Err(CacheError::Full { .. })));
    fill.write_now(GROUP, &data[G..]).unwrap();
    block_on(fill.finish()).unwrap();
    assert!(is_here(&*cache, &data));
}

/// An object above the limit is refused for good and costs the others nothing; one that fits exactly, with what lies beside
/// it, fits.
pub fn what_can_never_fit_is_too_large<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    for len in [1000, 3 * G] {
        let size = len as u64;
        let limit = limit_for(make, &[size]);
        let cache = make(limit);
        let (held, exact) = (content(1, len), content(2, len));
        put(&*cache, &held);
        match block_on(cache.fill(&id(b"large"), size + 1)) {
            Err(CacheError::TooLarge {
                object,
                size: asked,
                max,
            }) => {
                assert_eq!((object, asked, Some(max)), (id(b"large"), size + 1, limit));
            }
            other => panic!("{other:?}"),
        }
        let endless = block_on(cache.fill(&id(b"large"), u64::MAX));
        assert!(matches!(endless, Err(CacheError::TooLarge { .. })), "{endless:?}");
        assert!(is_here(&*cache, &held));
        put(&*cache, &exact);
        assert!(is_here(&*cache, &exact));
    }
}

/// When everything is in use there is no room; when something is let go there is.
pub fn a_full_cache_says_so_and_recovers<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[1000; 2]));
    let (first, second, third) = (content(1, 1000), content(2, 1000), content(3, 1000));
    put(&*cache, &first);
    put(&*cache, &second);
    let handles = [open(&*cache, &first).unwrap(), open(&*cache, &second).unwrap()];
    match block_on(cache.fill(&id(&third), 1000)) {
        Err(CacheError::Full { object, size }) => assert_eq!((object, size), (id(&third), 1000)),
        other => panic!("{other:?}"),
    }
    assert_eq!(account(&*cache), (2000, 0));
    assert!(open(&*cache, &third).is_none());
    drop(handles);
    put(&*cache, &third);
}

/// Whoever reads when an object is removed, reads on.
pub fn handles_survive_removal<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(None);
    let (whole, partial) = (content(1, 3 * G), content(2, 3 * G));
    put(&*cache, &whole);
    let fill = begin(&*cache, &partial).unwrap();
    fill.write_now(0, &partial[..G]).unwrap();
    drop(fill);
    let handles = [open(&*cache, &whole).unwrap(), open(&*cache, &partial).unwrap()];
    assert!(block_on(cache.remove(&id(&whole))).unwrap());
    assert!(block_on(cache.remove(&id(&partial))).unwrap());
    assert!(open(&*cache, &whole).is_none() && open(&*cache, &partial).is_none());
    assert_eq!(handles[0].read_now(0..3 * GROUP).unwrap(), whole);
    assert_eq!(handles[1].read_now(0..GROUP).unwrap(), partial[..G]);
}

/// Bytes that somebody can still read take room, whatever they are called.
pub fn removed_bytes_count_until_the_last_handle_is_dropped<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[1500]).map(|room| room + 500));
    let data = content(1, 1500);
    put(&*cache, &data);
    let handle = open(&*cache, &data).unwrap();
    assert!(block_on(cache.remove(&id(&data))).unwrap());
    assert_eq!(account(&*cache), (1500, 0));
    let other = content(2, 1000);
    let early = block_on(cache.fill(&id(&other), 1000));
    assert!(matches!(early, Err(CacheError::Full { .. })), "{early:?}");
    drop(handle);
    assert_eq!(account(&*cache), (0, 0));
    put(&*cache, &other);
}

/// Removing is not forbidding, not even while the old bytes are read.
pub fn a_removed_object_can_be_filled_again<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[2 * GROUP; 2]));
    let data = content(1, 2 * G);
    put(&*cache, &data);
    let old = open(&*cache, &data).unwrap();
    assert!(block_on(cache.remove(&id(&data))).unwrap());
    put(&*cache, &data);
    assert_eq!(account(&*cache), (4 * GROUP, 0));
    drop(old);
    assert_eq!(account(&*cache), (2 * GROUP, 0));
    assert!(is_here(&*cache, &data));
}

/// Removal gives its bytes back at once where nobody reads.
pub fn removal_gives_the_room_back<C: ObjectCache>(make: &dyn Fn(Option<u64>) -> Subject<C>) {
    let cache = make(limit_for(make, &[1000]));
    let data = content(1, 1000);
    for _ in 0..3 {
        put(&*cache, &data);
        assert_eq!(account(&*cache), (1000, 0));
        assert!(block_on(cache.remove(&id(&data))).unwrap());
        assert!(!block_on(cache.remove(&id(&data))).unwrap());
        assert_eq!(account(&*cache), (0, 0));
    }
    assert_eq!(cache.usage().evicted, 0, "removal is no eviction");
}
