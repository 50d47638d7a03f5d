//! [`SessionOptions`]: what may be set about a session.

/// Whether the kernel asks for each open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenRequests {
    /// Each open of a file is a request, and each last close another.
    #[default]
    Always,
    /// No file is opened: an open costs nothing, and nothing is told of it. Content comes by
    /// [`read`](crate::FileSystem::read) and is cached by the kernel; there is no passthrough.
    Never,
}

/// Whether the kernel reads complete files by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// No.
    Off,
    /// Where the kernel can.
    #[default]
    On,
    /// The same for files on file systems that lie on others (overlayfs). Nothing can be stacked on this mount then: it cannot
    /// be a layer of an overlayfs itself.
    OnStacked,
}

/// Options of a session; the defaults are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    pub(super) threads: usize,
    pub(super) open: OpenRequests,
    pub(super) passthrough: Passthrough,
    pub(super) max_pages: u16,
    pub(super) max_background: u16,
}

/// The most threads that read requests.
const THREADS_MAX: usize = 16;

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            open: OpenRequests::Always,
            passthrough: Passthrough::On,
            max_pages: 256,
            max_background: 1024,
        }
    }
}

impl SessionOptions {
    /// How many threads take requests, 1 to 16; as many as processors by default, at least 2 and at most 4. One that works on a
    /// slow disk stalls no other.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, THREADS_MAX);
        self
    }

    /// Whether the kernel asks for each open.
    #[must_use]
    pub fn open(mut self, open: OpenRequests) -> Self {
        self.open = open;
        self
    }

    /// Whether the kernel reads complete files by itself.
    #[must_use]
    pub fn passthrough(mut self, passthrough: Passthrough) -> Self {
        self.passthrough = passthrough;
        self
    }

    /// The largest read in pages; 256 (1 MiB) by default, which is also what the kernel allows by default.
    #[must_use]
    pub fn max_pages(mut self, pages: u16) -> Self {
        self.max_pages = pages.max(1);
        self
    }

    /// How many reads ahead may be under way at a time, 1024 by default. Beyond them the reads of other files wait too, so there
    /// have to be more than readers that wait for the network. The kernel allows users who are not root fewer.
    #[must_use]
    pub fn max_background(mut self, requests: u16) -> Self {
        self.max_background = requests.max(1);
        self
    }
}
