//! Opens and reads without a kernel: what the kernel's matrix of open modes allows, waiting, interrupts, errors.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::view::View;
use proptest::prelude::*;

use crate::filesystem::{BackingId, Errno, FileSystem as _, Handle, InodeId, OpenMode};
use crate::imfs::{Imfs, ImfsOptions, Shown};
use crate::testing::*;
use crate::tree::lock;

const TEXT: &str = "the content of a file that is read in pieces";

fn world() -> Arc<World> {
    let world = World::new();
    let big: &'static str = Box::leak("0123456789abcdef".repeat(20_000).into_boxed_str());
    world.publish(
        1,
        &dir([
            ("big", Item::File(big)),
            ("empty", Item::File("")),
            ("small", Item::File(TEXT)),
        ]),
    );
    world
}

fn mount(world: &Arc<World>) -> (Imfs, Arc<TestKernel>) {
    let imfs = world.imfs(Shown::View(debian(), View::Current));
    let kernel = Arc::new(TestKernel::default());
    imfs.mounted_without_watch(Arc::clone(&kernel) as _);
    (imfs, kernel)
}

/// Makes an object one of which so much is here; all of it for `None`.
fn set_present(world: &World, content: &[u8], present: Option<u64>) {
    let content = Bytes::copy_from_slice(content);
    let object = match present {
        Some(present) => TestObject::partial(content.clone(), present),
        None => TestObject::whole(content.clone()),
    };
    lock(&world.objects.0).insert(ObjectId::of(&content), object);
}

#[test]
fn complete_files_are_passed_to_the_kernel_and_given_back() {
    let world = world();
    let (imfs, kernel) = mount(&world);
    let small = imfs.inode("small");
    let first = imfs.open(small).unwrap().mode;
    let second = imfs.open(small).unwrap().mode;
    assert!(matches!((&first, &second), (OpenMode::Passthrough(a), OpenMode::Passthrough(b)) if a == b));
    imfs.release(small, Handle(0));
    assert_eq!(lock(&kernel.backed).len(), 1);
    imfs.release(small, Handle(0));
    assert!(lock(&kernel.backed).is_empty());
    assert_eq!(imfs.status().open_files, 0);
    // One release too many, and of what was never open.
    imfs.release(small, Handle(0));
    imfs.release(InodeId::ROOT, Handle(0));
}

#[test]
fn a_kernel_without_passthrough_is_asked_once_and_content_is_served() {
    let world = world();
    let (imfs, kernel) = mount(&world);
    *lock(&kernel.refuses) = Some(Errno::PERM);
    let small = imfs.inode("small");
    assert!(matches!(imfs.open(small).unwrap().mode, OpenMode::Cached));
    assert_eq!(imfs.status().passthrough_refused, Some(Errno::PERM));
    *lock(&kernel.refuses) = None;
    assert!(matches!(imfs.open(imfs.inode("big")).unwrap().mode, OpenMode::Cached));
    assert_eq!(imfs.start_read(small, 4..11).wait().unwrap(), TEXT[4..11]);
    assert_eq!(imfs.start_read(small, 40..4096).wait().unwrap(), TEXT[40..]);
    assert_eq!(imfs.start_read(small, 4096..8192).wait().unwrap(), "");
    assert_eq!(imfs.start_read(imfs.inode("empty"), 0..4096).wait().unwrap(), "");
}

#[test]
fn reads_without_an_open_are_answered() {
    let world = world();
    let (imfs, _) = mount(&world);
    for _ in 0..3 {
        assert_eq!(imfs.start_read(imfs.inode("small"), 0..4096).wait().unwrap(), TEXT);
    }
    let gone = imfs.inode("small");
    world.remove(1);
    assert_eq!(imfs.start_read(gone, 0..10).wait(), Err(Errno::STALE));
}

#[test]
fn no_more_is_asked_for_than_is_read() {
    let world = world();
    let (imfs, _) = mount(&world);
    let content = "0123456789abcdef".repeat(20_000);
    set_present(&world, content.as_bytes(), Some(content.len() as u64));
    let object = lock(&world.objects.0)[&ObjectId::of(content.as_bytes())].clone();
    let big = imfs.inode("big");
    assert!(matches!(imfs.open(big).unwrap().mode, OpenMode::Cached));
    assert_eq!(
        imfs.start_read(big, 100_000..131_072).wait().unwrap(),
        content[100_000..131_072]
    );
    assert_eq!(*lock(&object.asked), [0..0, 100_000..131_072]);
    imfs.release(big, Handle(0));
}

#[test]
fn a_waiting_read_ends_by_interrupt_or_by_its_time_and_is_withdrawn() {
    let world = world();
    let mut options = ImfsOptions::new(Shown::View(debian(), View::Current));
    options.read_timeout = Duration::from_secs(30);
    let imfs = world.imfs_with(options);
    set_present(&world, TEXT.as_bytes(), Some(10));
    let object = lock(&world.objects.0)[&ObjectId::of(TEXT.as_bytes())].clone();
    let small = imfs.inode("small");
    assert_eq!(imfs.start_read(small, 0..10).wait().unwrap(), TEXT[..10]);
    let begun = Instant::now();
    let interrupted = imfs.start_read(small, 0..20);
    let late = imfs.start_read(small, 5..20);
    assert_eq!(imfs.status().waiting, 2);
    interrupted.interrupt();
    assert_eq!(interrupted.wait(), Err(Errno::INTR));
    imfs.tick(begun + Duration::from_secs(20));
    assert_eq!(imfs.status().waiting, 1, "it has time left");
    assert!(!late.is_there());
    imfs.tick(begun + Duration::from_secs(31));
    assert_eq!(late.wait(), Err(Errno::TIMEDOUT));
    let until = Instant::now() + Duration::from_secs(10);
    while object.readers.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < until, "a reader stays behind");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(imfs.status().waiting, 0);
}

#[test]
fn an_open_never_waits_and_fails_for_what_cannot_be_had() {
    let world = world();
    let (imfs, _) = mount(&world);
    set_present(&world, TEXT.as_bytes(), Some(0));
    assert!(matches!(imfs.open(imfs.inode("small")).unwrap().mode, OpenMode::Cached));
    let content = "0123456789abcdef".repeat(20_000);
    lock(&world.objects.0).remove(&ObjectId::of(content.as_bytes()));
    assert_eq!(imfs.open(imfs.inode("big")).unwrap_err(), Errno::IO);
    assert_eq!(imfs.status().open_files, 1);
}

/// The kernel's books: how an inode is open, as `fuse_file_io_open` has it.
#[derive(Debug, Default)]
struct Model {
    cached: u32,
    passed: u32,
    backing: Option<BackingId>,
}

#[derive(Debug, Clone)]
enum Step {
    Open(usize),
    Release(usize),
    /// It becomes complete, or is evicted.
    Present(usize, bool),
    /// The kernel refuses this file, or does not.
    Refuse(bool),
    Flip,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize).prop_map(Step::Open),
        6 => (0..3_usize).prop_map(Step::Release),
        3 => ((0..3_usize), any::<bool>()).prop_map(|(file, whole)| Step::Present(file, whole)),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => Just(Step::Flip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_order_of_opens_gives_what_the_kernel_answers_with_eio(steps in proptest::collection::vec(any_step(), 1..80)) {
        const CONTENTS: [&str; 3] = ["one", "two", "three"];
        let world = World::new();
        let tree = dir([("0", Item::File("one")), ("1", Item::File("two")), ("2", Item::File("three"))]);
        world.publish(1, &tree);
        let (imfs, kernel) = mount(&world);
        let mut open: HashMap<InodeId, Model> = HashMap::new();
        let mut handles: [Vec<InodeId>; 3] = Default::default();
        let mut next = 2;
        for step in steps {
            match step {
                Step::Open(file) => {
                    let inode = imfs.inode(&file.to_string());
                    let mode = imfs.open(inode).unwrap().mode;
                    let model = open.entry(inode).or_default();
                    match mode {
                        OpenMode::Cached => {
                            prop_assert_eq!(model.passed, 0, "cached beside passthrough");
                            model.cached += 1;
                        }
                        OpenMode::Passthrough(id) => {
                            prop_assert_eq!(model.cached, 0, "passthrough beside cached");
                            prop_assert!(model.backing.is_none_or(|known| known == id), "another backing file");
                            prop_assert!(lock(&kernel.backed).contains(&id), "a backing file that was given back");
                            (model.passed, model.backing) = (model.passed + 1, Some(id));
                        }
                        OpenMode::Direct => prop_assert!(false, "never asked for"),
                    }
                    handles[file].push(inode);
                }
                Step::Release(file) => {
                    let Some(inode) = handles[file].pop() else { continue };
                    let model = open.get_mut(&inode).unwrap();
                    if model.passed > 0 { model.passed -= 1 } else { model.cached -= 1 }
                    if model.passed == 0 { model.backing = None }
                    imfs.release(inode, Handle(0));
                }
                Step::Present(file, whole) => {
                    set_present(&world, CONTENTS[file].as_bytes(), if whole { None } else { Some(1) });
                }
                Step::Refuse(refuses) => *lock(&kernel.refuses) = refuses.then_some(Errno::NODEV),
                Step::Flip => {
                    world.publish(next, &tree);
                    next += 1;
                }
            }
        }
        for inode in handles.into_iter().flatten() {
            imfs.release(inode, Handle(0));
        }
        prop_assert!(lock(&kernel.backed).is_empty(), "a backing file is left");
        prop_assert_eq!(imfs.status().open_files, 0);
    }
}

#[test]
fn threads_that_open_and_release_at_once_agree() {
    let world = world();
    let (imfs, kernel) = mount(&world);
    let inode = imfs.inode("small");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        match imfs.open(inode).unwrap().mode {
                            // While it is open its backing file is there.
                            OpenMode::Passthrough(id) => assert!(lock(&kernel.backed).contains(&id)),
                            OpenMode::Cached => assert!(lock(&kernel.backed).is_empty()),
                            OpenMode::Direct => panic!("never asked for"),
                        }
                        imfs.release(inode, Handle(0));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                set_present(&world, TEXT.as_bytes(), Some(1));
                set_present(&world, TEXT.as_bytes(), None);
            }
        });
        let results: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(lock(&kernel.backed).is_empty());
}
