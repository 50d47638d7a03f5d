//! [`MemoryTree`]: a small file system in memory, which the tests mount, count and disturb.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use instantmirror_fuse::{
    Attributes, BackingId, Content, Errno, FileKind, FileSystem, FileSystemSize, Found, Handle, InodeId, Kernel,
    Lookup, OpenMode, Opened, Read, ReadReply, Row, Rows, Validity,
};

/// The content of a file, and how it is read.
pub(crate) enum Data {
    /// Bytes in memory, through the page cache.
    Cached(Bytes),
    /// Bytes in memory, past the page cache.
    Direct(Bytes),
    /// Bytes of a file, by passthrough where the kernel lets us, else as parts of that file.
    Backed(File),
    /// Reads wait until they are interrupted, or answered with what was said by [`MemoryTree::answer_waiting`].
    Waiting(u64),
    /// Reads panic.
    Panicking,
    /// Reads forget their reply.
    Forgetting,
    /// Reads say that there is less than there is.
    Truncated(File),
}

/// A file, directory or symlink.
pub(crate) enum Node {
    File {
        data: Data,
        mode: u16,
        ino: Option<u64>,
        links: u32,
    },
    Directory {
        children: Vec<(Vec<u8>, u64)>,
        parent: u64,
    },
    Symlink(Bytes),
}

type Waiting = (Box<dyn ReadReply>, Read);

/// The file system.
pub(crate) struct MemoryTree {
    nodes: Mutex<HashMap<u64, Node>>,
    next: AtomicU64,
    kernel: OnceLock<Arc<dyn Kernel>>,
    /// One backing id per inode, as the kernel wants it, and how often it is open.
    backings: Mutex<HashMap<u64, (BackingId, u64)>>,
    waiting: Arc<Mutex<HashMap<u64, Waiting>>>,
    /// Told of each read that begins to wait.
    waits: Sender<Read>,
    waited: Mutex<Receiver<Read>>,
    pub(crate) interrupted: Arc<AtomicU32>,
    /// Why a backing file was refused, if one was.
    pub(crate) back_error: Mutex<Option<Errno>>,
    pub(crate) validity: Validity,
}

const ROOT: u64 = 1;

impl MemoryTree {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_validity(Validity::Forever)
    }

    pub(crate) fn with_validity(validity: Validity) -> Arc<Self> {
        let (waits, waited) = channel();
        let root = Node::Directory {
            children: Vec::new(),
            parent: ROOT,
        };
        Arc::new(Self {
            nodes: Mutex::new(HashMap::from([(ROOT, root)])),
            next: AtomicU64::new(1000),
            kernel: OnceLock::new(),
            backings: Mutex::default(),
            waiting: Arc::default(),
            waits,
            waited: Mutex::new(waited),
            interrupted: Arc::default(),
            back_error: Mutex::default(),
            validity,
        })
    }

    /// Adds a node under a name, and says its number.
    pub(crate) fn add(&self, parent: u64, name: &str, node: Node) -> u64 {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let mut nodes = self.nodes.lock().unwrap();
        nodes.insert(number, node);
        self.link(&mut nodes, parent, name, number);
        number
    }

    fn link(&self, nodes: &mut HashMap<u64, Node>, parent: u64, name: &str, number: u64) {
        let Some(Node::Directory { children, .. }) = nodes.get_mut(&parent) else {
            panic!("not a directory")
        };
        let place = children.binary_search_by(|(other, _)| other.as_slice().cmp(name.as_bytes()));
        match place {
            Ok(at) => children[at].1 = number,
            Err(at) => children.insert(at, (name.as_bytes().to_vec(), number)),
        }
    }

    /// Closes what a file is read from.
    pub(crate) fn forget_content(&self, number: u64) {
        if let Some(Node::File { data, .. }) = self.nodes.lock().unwrap().get_mut(&number) {
            *data = Data::Cached(Bytes::new());
        }
    }

    pub(crate) fn file(&self, parent: u64, name: &str, data: Data) -> u64 {
        let node = Node::File {
            data,
            mode: 0o644,
            ino: None,
            links: 1,
        };
        self.add(parent, name, node)
    }

    pub(crate) fn text(&self, parent: u64, name: &str, text: &str) -> u64 {
        self.file(parent, name, Data::Cached(Bytes::copy_from_slice(text.as_bytes())))
    }

    pub(crate) fn directory(&self, parent: u64, name: &str) -> u64 {
        let node = Node::Directory {
            children: Vec::new(),
            parent,
        };
        self.add(parent, name, node)
    }

    /// A directory of many empty files, made at once.
    pub(crate) fn crowd(&self, parent: u64, name: &str, count: u64) -> u64 {
        let directory = self.directory(parent, name);
        let mut nodes = self.nodes.lock().unwrap();
        let mut names = Vec::new();
        for at in 0..count {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let data = Data::Cached(Bytes::new());
            nodes.insert(
                number,
                Node::File {
                    data,
                    mode: 0o644,
                    ino: None,
                    links: 1,
                },
            );
            names.push((format!("file-{at:08}").into_bytes(), number));
        }
        if let Some(Node::Directory { children, .. }) = nodes.get_mut(&directory) {
            *children = names;
        }
        directory
    }

    pub(crate) fn kernel(&self) -> &Arc<dyn Kernel> {
        self.kernel.get().expect("the session has begun")
    }

    /// The next read that waits.
    pub(crate) fn wait_for_read(&self) -> Read {
        self.waited
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(20))
            .expect("a read that waits")
    }

    /// Answers all that wait.
    pub(crate) fn answer_waiting(&self, result: Result<&'static [u8], Errno>) {
        for (_, (reply, read)) in self.waiting.lock().unwrap().drain() {
            reply.complete(result.map(|bytes| {
                let from = usize::try_from(read.offset).unwrap().min(bytes.len());
                let to = bytes.len().min(from + read.len as usize);
                Content::Bytes(Bytes::from_static(&bytes[from..to]))
            }));
        }
    }

    fn attributes_of(number: u64, node: &Node) -> Attributes {
        let (kind, mode, size, ino, links) = match node {
            Node::File { data, mode, ino, links } => (FileKind::File, *mode, data.len(), *ino, *links),
            Node::Directory { .. } => (FileKind::Directory, 0o755, 4096, None, 2),
            Node::Symlink(target) => (FileKind::Symlink, 0o777, target.len() as u64, None, 1),
        };
        Attributes {
            ino: ino.unwrap_or(number),
            kind,
            mode,
            links,
            uid: 0,
            gid: 0,
            size,
            mtime: 1_600_000_000,
        }
    }

    fn found(&self, number: u64, node: &Node) -> Found {
        Found {
            inode: InodeId(number),
            attributes: Self::attributes_of(number, node),
            entry_validity: self.validity,
            attribute_validity: self.validity,
        }
    }

    /// Makes a backing file, or takes the one that there is.
    fn back(&self, inode: u64, file: &File) -> Result<BackingId, Errno> {
        let mut backings = self.backings.lock().unwrap();
        if let Some((id, count)) = backings.get_mut(&inode) {
            *count += 1;
            return Ok(*id);
        }
        let id = self.kernel().back(file.as_fd())?;
        backings.insert(inode, (id, 1));
        Ok(id)
    }

    fn read_later(&self, read: Read, reply: Box<dyn ReadReply>) {
        let key = self.next.fetch_add(1, Ordering::SeqCst);
        // It has to be in the table before it can be woken.
        self.waiting.lock().unwrap().insert(key, (reply, read));
        let waiting = Arc::clone(&self.waiting);
        let interrupted = Arc::clone(&self.interrupted);
        let (ready, begin) = channel::<()>();
        let wake = move || {
            std::thread::spawn(move || {
                let _ = begin.recv();
                interrupted.fetch_add(1, Ordering::SeqCst);
                let reply = waiting.lock().unwrap().remove(&key);
                if let Some((reply, _)) = reply {
                    reply.complete(Err(Errno::INTR));
                }
            });
        };
        if let Some((reply, _)) = self.waiting.lock().unwrap().get(&key) {
            reply.on_interrupt(Box::new(wake));
        }
        drop(ready);
        let _ = self.waits.send(read);
    }
}

impl Data {
    fn len(&self) -> u64 {
        match self {
            Self::Cached(bytes) | Self::Direct(bytes) => bytes.len() as u64,
            Self::Backed(file) => file.metadata().unwrap().len(),
            Self::Truncated(file) => file.metadata().unwrap().len() + 1,
            Self::Waiting(len) => *len,
            Self::Panicking | Self::Forgetting => 10,
        }
    }
}

fn copy_of(file: &File) -> OwnedFd {
    file.try_clone().unwrap().into()
}

fn part(bytes: &Bytes, read: Read) -> Bytes {
    let from = usize::try_from(read.offset).unwrap().min(bytes.len());
    bytes.slice(from..bytes.len().min(from + read.len as usize))
}

impl FileSystem for MemoryTree {
    fn mounted(&self, kernel: Arc<dyn Kernel>) {
        assert!(self.kernel.set(kernel).is_ok(), "mounted twice");
    }

    fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Lookup, Errno> {
        let nodes = self.nodes.lock().unwrap();
        let Some(Node::Directory {
            children,
            parent: above,
        }) = nodes.get(&parent.0)
        else {
            // A file is looked up as "." too, by file handles.
            let node = nodes.get(&parent.0).filter(|_| name == b".").ok_or(Errno::NOTDIR)?;
            return Ok(Lookup::Found(self.found(parent.0, node)));
        };
        let number = match name {
            b"." => parent.0,
            b".." => *above,
            b"panic" => {
                drop(nodes);
                panic!("as the test wants it");
            }
            name => match children.binary_search_by(|(other, _)| other.as_slice().cmp(name)) {
                Ok(at) => children[at].1,
                Err(_) => return Ok(Lookup::Absent(self.validity)),
            },
        };
        let node = nodes.get(&number).ok_or(Errno::STALE)?;
        Ok(Lookup::Found(self.found(number, node)))
    }

    fn attributes(&self, inode: InodeId) -> Result<(Attributes, Validity), Errno> {
        let nodes = self.nodes.lock().unwrap();
        let node = nodes.get(&inode.0).ok_or(Errno::STALE)?;
        Ok((Self::attributes_of(inode.0, node), self.validity))
    }

    fn readlink(&self, inode: InodeId) -> Result<Bytes, Errno> {
        match self.nodes.lock().unwrap().get(&inode.0) {
            Some(Node::Symlink(target)) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    fn open(&self, inode: InodeId) -> Result<Opened, Errno> {
        let nodes = self.nodes.lock().unwrap();
        let Some(Node::File { data, .. }) = nodes.get(&inode.0) else {
            return Err(Errno::ISDIR);
        };
        let mode = match data {
            Data::Direct(_) | Data::Waiting(_) => OpenMode::Direct,
            Data::Backed(file) => match self.back(inode.0, file) {
                Ok(id) => OpenMode::Passthrough(id),
                Err(error) => {
                    *self.back_error.lock().unwrap() = Some(error);
                    OpenMode::Cached
                }
            },
            _ => OpenMode::Cached,
        };
        let handle = Handle(self.next.fetch_add(1, Ordering::SeqCst));
        Ok(Opened { handle, mode })
    }

    fn read(&self, read: Read, reply: Box<dyn ReadReply>) {
        let nodes = self.nodes.lock().unwrap();
        let Some(Node::File { data, .. }) = nodes.get(&read.inode.0) else {
            return reply.complete(Err(Errno::ISDIR));
        };
        let file = |file: &File, end: u64| Content::File {
            file: copy_of(file),
            offset: read.offset,
            len: usize::try_from(end.saturating_sub(read.offset).min(u64::from(read.len))).unwrap(),
        };
        match data {
            Data::Cached(bytes) | Data::Direct(bytes) => reply.complete(Ok(Content::Bytes(part(bytes, read)))),
            Data::Backed(backing) => reply.complete(Ok(file(backing, data.len()))),
            Data::Truncated(backing) => reply.complete(Ok(file(backing, data.len()))),
            Data::Waiting(_) => {
                drop(nodes);
                self.read_later(read, reply);
            }
            Data::Panicking => {
                drop(nodes);
                panic!("as the test wants it");
            }
            Data::Forgetting => drop(reply),
        }
    }

    fn release(&self, inode: InodeId, _: Handle) {
        let mut backings = self.backings.lock().unwrap();
        if let Some((id, count)) = backings.get_mut(&inode.0) {
            *count -= 1;
            if *count == 0 {
                self.kernel().unback(*id);
                backings.remove(&inode.0);
            }
        }
    }

    fn list(&self, directory: InodeId, after: u64, rows: &mut dyn Rows) -> Result<(), Errno> {
        let nodes = self.nodes.lock().unwrap();
        let Some(Node::Directory { children, parent }) = nodes.get(&directory.0) else {
            return Err(Errno::NOTDIR);
        };
        let own = [(&b"."[..], directory.0), (&b".."[..], *parent)];
        let all = own
            .into_iter()
            .chain(children.iter().map(|(name, number)| (name.as_slice(), *number)));
        for (at, (name, number)) in (1..).zip(all).skip(usize::try_from(after).unwrap()) {
            let found = self.found(number, nodes.get(&number).ok_or(Errno::STALE)?);
            let row = Row { name, next: at, found };
            if !rows.push(&row) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self) -> FileSystemSize {
        FileSystemSize {
            bytes: 1 << 30,
            bytes_free: 1 << 29,
            files: self.nodes.lock().unwrap().len() as u64,
        }
    }

    fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes, Errno> {
        match name {
            b"user.number" => Ok(inode.0.to_string().into()),
            _ => Err(Errno::NODATA),
        }
    }

    fn xattrs(&self, _: InodeId) -> Result<Vec<Bytes>, Errno> {
        Ok(vec![Bytes::from_static(b"user.number")])
    }
}
