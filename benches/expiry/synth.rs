//! A mirror's days, made up: packages by Zipf, metadata that everybody reads and every snapshot replaces, a thin tail of
//! images, a release that brings five times the requests, somebody who copies everything, and clients that are late.
//!
//! The same seed gives the same trace.

use instantmirror::core::expiry::Standing;

use crate::trace::{Event, Trace, What};

/// What the made-up mirror is like.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Shape {
    /// Packages that are current at a time.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) packages: u32,
    /// Files of metadata that are current at a time.
    #[arg(long, default_value_t = 400)]
    pub(crate) metadata: u32,
    /// Images that are current at a time.
    #[arg(long, default_value_t = 60)]
    pub(crate) images: u32,
    /// Requests on a usual day.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) requests: u32,
    /// Days; the release is in the middle.
    #[arg(long, default_value_t = 14)]
    pub(crate) days: u32,
    /// Hours between two snapshots.
    #[arg(long, default_value_t = 6)]
    pub(crate) snapshot_hours: u32,
    /// Packages that a snapshot replaces, in a thousand.
    #[arg(long, default_value_t = 5)]
    pub(crate) replaced_permille: u32,
    /// Requests for metadata, in a hundred.
    #[arg(long, default_value_t = 60)]
    pub(crate) metadata_percent: u32,
    /// Exponent of the popularity of packages, in hundredths.
    #[arg(long, default_value_t = 90)]
    pub(crate) zipf_percent: u32,
    /// For the random numbers.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Snapshots that stay live behind the current one.
const OLD_SNAPSHOTS: usize = 3;
/// Requests in a thousand that go by the metadata of the snapshot before.
const LATE_PERMILLE: u64 = 40;
/// How many times the usual requests come on the day of a release.
const PEAK: u32 = 5;
const DAY_S: u32 = 86_400;

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit.max(1))).unwrap_or(0)
    }

    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }

    /// Log-normal, by the sum of twelve.
    fn size(&mut self, median: f64, sigma: f64, max: f64) -> u64 {
        let normal: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 100 and max"
        )]
        let size = (median * (normal * sigma).exp()).clamp(100.0, max) as u64;
        size
    }
}

/// The ranks of a Zipf distribution, by their summed weights.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=ranks.max(1))
                .map(|rank| {
                    sum += f64::from(rank).powf(-exponent);
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, numbers: &mut Numbers) -> usize {
        let wanted = numbers.unit() * self.0.last().copied().unwrap_or_default();
        self.0.partition_point(|sum| *sum < wanted).min(self.0.len() - 1)
    }
}

/// Places in the tree, most popular first, and the objects that were in each.
struct Shelf {
    current: Vec<u32>,
    before: Vec<u32>,
    zipf: Zipf,
    median: f64,
    sigma: f64,
    max: f64,
}

struct Mirror {
    shape: Shape,
    numbers: Numbers,
    trace: Trace,
    packages: Shelf,
    metadata: Shelf,
    images: Shelf,
    /// What each of the last snapshots replaced.
    replaced: Vec<Vec<u32>>,
}

impl Trace {
    fn add(&mut self, size: u64) -> u32 {
        self.sizes.push(size);
        u32::try_from(self.sizes.len() - 1).unwrap_or(u32::MAX)
    }
}

impl Shelf {
    fn new(places: u32, exponent: f64, (median, sigma, max): (f64, f64, f64)) -> Self {
        Self {
            current: vec![0; usize::try_from(places).unwrap_or(0)],
            before: Vec::new(),
            zipf: Zipf::new(places, exponent),
            median,
            sigma,
            max,
        }
    }

    fn fill(&mut self, numbers: &mut Numbers, trace: &mut Trace) {
        for place in &mut self.current {
            *place = trace.add(numbers.size(self.median, self.sigma, self.max));
        }
        self.before.clone_from(&self.current);
    }
}

/// Makes a trace.
pub(crate) fn make(shape: Shape) -> Trace {
    let exponent = f64::from(shape.zipf_percent) / 100.0;
    let mut mirror = Mirror {
        shape,
        numbers: Numbers(shape.seed),
        trace: Trace::default(),
        packages: Shelf::new(shape.packages, exponent, (60_000.0, 2.0, 1e9)),
        metadata: Shelf::new(shape.metadata, 1.0, (100_000.0, 1.8, 3e7)),
        images: Shelf::new(shape.images, 1.1, (1.5e9, 0.6, 5e9)),
        replaced: Vec::new(),
    };
    for shelf in [&mut mirror.packages, &mut mirror.metadata, &mut mirror.images] {
        shelf.fill(&mut mirror.numbers, &mut mirror.trace);
    }
    mirror.run();
    mirror.trace
}

impl Mirror {
    fn run(&mut self) {
        let (days, every) = (self.shape.days, self.shape.snapshot_hours.max(1) * 3600);
        let release = days / 2;
        let mut copied = 0;
        let mut next_snapshot = every;
        for day in 0..days {
            let rate = if day == release { PEAK } else { 1 } * self.shape.requests;
            if day == release {
                self.release(day * DAY_S);
            }
            for i in 0..rate {
                let within = u64::from(i) * u64::from(DAY_S) / u64::from(rate.max(1));
                let time_s = day * DAY_S + u32::try_from(within).unwrap_or(0);
                if time_s >= next_snapshot {
                    next_snapshot += every;
                    self.snapshot(time_s);
                }
                self.request(time_s, day == release);
                // Somebody copies the tree, package by package, from the third day on.
                if day >= 2 && i % 8 == 0 && copied < self.packages.current.len() {
                    let object = self.packages.current[copied];
                    self.push(time_s, object, What::Request);
                    copied += 1;
                }
            }
        }
    }

    fn push(&mut self, time_s: u32, object: u32, what: What) {
        self.trace.events.push(Event { time_s, object, what });
    }

    fn request(&mut self, time_s: u32, is_release: bool) {
        let kind = self.numbers.below(10_000);
        let images = if is_release { 50 } else { 5 };
        let shelf = if kind < self.shape.metadata_percent * 100 {
            &self.metadata
        } else if kind >= 10_000 - images {
            &self.images
        } else {
            &self.packages
        };
        let place = shelf.zipf.draw(&mut self.numbers);
        let is_late = self.numbers.next() % 1000 < LATE_PERMILLE;
        let list = if is_late { &shelf.before } else { &shelf.current };
        let object = list[place];
        self.push(time_s, object, What::Request);
    }

    /// All metadata is new, some packages are, and what the fourth snapshot behind had is gone.
    fn snapshot(&mut self, time_s: u32) {
        let mut replaced = Vec::new();
        for shelf in [&mut self.packages, &mut self.metadata] {
            shelf.before.clone_from(&shelf.current);
        }
        let packages = self.shape.packages * self.shape.replaced_permille / 1000;
        for _ in 0..packages {
            let place = usize::try_from(self.numbers.below(self.shape.packages)).unwrap_or(0);
            replaced.push(Self::replace(
                &mut self.packages,
                place,
                &mut self.numbers,
                &mut self.trace,
            ));
        }
        for place in 0..self.metadata.current.len() {
            // Some of it belongs to parts of the tree that have not changed.
            if place % 4 != 3 {
                replaced.push(Self::replace(
                    &mut self.metadata,
                    place,
                    &mut self.numbers,
                    &mut self.trace,
                ));
            }
        }
        self.retire(time_s, replaced);
    }

    fn replace(shelf: &mut Shelf, place: usize, numbers: &mut Numbers, trace: &mut Trace) -> u32 {
        let size = numbers.size(shelf.median, shelf.sigma, shelf.max);
        std::mem::replace(&mut shelf.current[place], trace.add(size))
    }

    /// What was replaced stays live for as long as there are late clients: until the next snapshot.
    fn retire(&mut self, time_s: u32, replaced: Vec<u32>) {
        for object in self.replaced.last().cloned().unwrap_or_default() {
            self.push(time_s, object, What::Standing(Standing::Old));
        }
        self.replaced.push(replaced);
        if self.replaced.len() > OLD_SNAPSHOTS {
            for object in self.replaced.remove(0) {
                self.push(time_s, object, What::Standing(Standing::Garbage));
            }
        }
    }

    /// New images, and a fifth of the popular packages are new.
    fn release(&mut self, time_s: u32) {
        let mut replaced = Vec::new();
        for place in 0..self.images.current.len() {
            replaced.push(Self::replace(
                &mut self.images,
                place,
                &mut self.numbers,
                &mut self.trace,
            ));
        }
        self.images.before.clone_from(&self.images.current);
        for place in (0..self.packages.current.len() / 10).step_by(5) {
            replaced.push(Self::replace(
                &mut self.packages,
                place,
                &mut self.numbers,
                &mut self.trace,
            ));
        }
        self.retire(time_s, replaced);
    }
}
