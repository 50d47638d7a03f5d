//! [`Session`]: serves a [`Mount`] with a [`FileSystem`], on threads of its own.
//!
//! Each thread has a descriptor of the device, so a slow answer stalls nobody else; reads may be answered from any thread. A panic
//! of the file system ends one request, not the session. The session ends when the mount is gone, whoever unmounts it, and
//! unmounts when it is dropped.

mod counters;
mod dispatch;
mod handle;
mod init;
mod interrupts;
mod options;
mod reply;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zerocopy::IntoBytes;

pub use counters::Counters;
pub use init::Protocol;
pub use options::{OpenRequests, Passthrough, SessionOptions};

use crate::filesystem::FileSystem;
use crate::kernel::device::Device;
use crate::kernel::mount::{Method, Mount, MountError, Mounted, Unmount};
use crate::kernel::request::{Operation, Request};
use crate::kernel::{REQUEST_BYTES_MAX, abi};
use dispatch::Server;
use handle::KernelHandle;
use init::{Negotiation, negotiate};
use reply::Traffic;

/// How long a session that is dropped waits for its threads. Longer waits only a user's mount that is busy, where the kernel shows
/// no way to end it.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a session did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The kernel is too old.
    #[error(
        "the kernel speaks FUSE {major}.{minor}, and 7.{} (Linux 5.4) is the oldest that imfs works with; use a newer kernel",
        abi::MINOR_MIN
    )]
    OldKernel {
        /// The major version.
        major: u32,
        /// The minor version.
        minor: u32,
    },
    /// It is unmounted already.
    #[error("{} was unmounted before it was served", mountpoint.display())]
    Unmounted {
        /// Where.
        mountpoint: std::path::PathBuf,
    },
    /// The first request of the kernel was not what it has to be.
    #[error("the kernel began with a request that is no INIT")]
    NoHandshake,
    /// The device or a thread failed.
    #[error("cannot {what}")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A mount that is served. Unmounts when it is dropped ([`Unmount::Abort`]).
pub struct Session {
    mounted: Mounted,
    protocol: Protocol,
    traffic: Arc<Traffic>,
    running: Arc<Running>,
    is_read_ahead_set: bool,
}

impl Session {
    /// Begins to serve, on threads of its own.
    ///
    /// # Errors
    /// See [`SessionError`]; the mount is undone then.
    pub fn serve(
        mount: Mount,
        file_system: Arc<dyn FileSystem>,
        options: SessionOptions,
    ) -> Result<Self, SessionError> {
        let (device, mounted) = mount.into_parts();
        let device = Arc::new(device);
        let protocol = shake_hands(&device, &options).map_err(|error| match error {
            SessionError::Io { source, .. } if Errno::from_io_error(&source) == Some(Errno::NODEV) => {
                SessionError::Unmounted {
                    mountpoint: mounted.mountpoint().to_owned(),
                }
            }
            other => other,
        })?;
        // The handshake has set it to what it was.
        let is_read_ahead_set = mounted.set_read_ahead();
        let traffic = Arc::<Traffic>::default();
        file_system.mounted(Arc::new(KernelHandle::new(&device, &traffic, protocol)));
        let server = Arc::new(Server {
            file_system,
            traffic: Arc::clone(&traffic),
            open: options.open,
        });
        let session = Self {
            mounted,
            protocol,
            traffic,
            running: Arc::default(),
            is_read_ahead_set,
        };
        for number in 0..options.threads {
            // Without a descriptor of its own, a thread shares the first one: slower, and as good.
            let own = if number == 0 { None } else { device.another().ok() };
            let own = own.map_or_else(|| Arc::clone(&device), Arc::new);
            session.start(number, own, &server)?;
        }
        Ok(session)
    }

    fn start(&self, number: usize, device: Arc<Device>, server: &Arc<Server>) -> Result<(), SessionError> {
        let server = Arc::clone(server);
        let running = Running::enter(&self.running, &self.traffic);
        std::thread::Builder::new()
            .name(format!("imfs-{number}"))
            .spawn(move || {
                // The first given up is dropped last: the end is told when nothing of this thread is left.
                let running = running;
                server.run(&device);
                drop(device);
                drop(server);
                drop(running);
            })
            .map(|_| ())
            .map_err(|source| SessionError::Io {
                what: "start a thread",
                source,
            })
    }

    /// Waits until the mount is gone and all threads have ended.
    pub fn join(&self) {
        self.running.wait(None);
    }

    /// The same, for at most this time. Says whether it has ended.
    #[must_use]
    pub fn join_timeout(&self, time: Duration) -> bool {
        self.running.wait(Some(time))
    }

    /// Unmounts. [`join`](Self::join) then waits for the threads.
    ///
    /// # Errors
    /// [`MountError::Busy`] of [`Unmount::IfIdle`], and what the system says.
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        self.mounted.unmount(how)
    }

    /// Where, without symlinks.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        self.mounted.mountpoint()
    }

    /// How it was mounted.
    #[must_use]
    pub fn method(&self) -> Method {
        self.mounted.method()
    }

    /// The protocol that kernel and session have agreed on.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether the kernel reads ahead as far as the mount asked for; if not, `/sys` cannot be written here, and it is 128 KiB.
    #[must_use]
    pub fn is_read_ahead_set(&self) -> bool {
        self.is_read_ahead_set
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.traffic.counters()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.mounted.unmount(Unmount::Abort) {
            tracing::warn!(mountpoint = %self.mountpoint().display(), %error, "cannot unmount");
        }
        self.running.wait(Some(DROP_TIMEOUT));
    }
}

/// Answers INIT, however often the kernel asks.
fn shake_hands(device: &Device, options: &SessionOptions) -> Result<Protocol, SessionError> {
    let io = |what: &'static str| {
        move |error: Errno| SessionError::Io {
            what,
            source: error.into(),
        }
    };
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let len = match device.read(&mut buffer) {
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            other => other.map_err(io("read the first request from /dev/fuse"))?,
        };
        let request = Request::decode(&buffer[..len]).map_err(|_| SessionError::NoHandshake)?;
        let Operation::Init(init) = request.operation else {
            return Err(SessionError::NoHandshake);
        };
        let answer = io("answer the first request to /dev/fuse");
        match negotiate(&init, options) {
            Negotiation::Again(out) => device.reply(request.unique, out.as_bytes()).map_err(answer)?,
            Negotiation::TooOld => {
                let _ = device.refuse(request.unique, Errno::PROTO);
                return Err(SessionError::OldKernel {
                    major: init.major,
                    minor: init.minor,
                });
            }
            Negotiation::Done(out, protocol) => {
                device.reply(request.unique, out.as_bytes()).map_err(answer)?;
                return Ok(protocol);
            }
        }
    }
}

/// How many threads serve.
#[derive(Default)]
struct Running {
    threads: Mutex<usize>,
    ended: Condvar,
}

/// One of them.
struct Runner(Arc<Running>, Arc<Traffic>);

impl Running {
    fn enter(running: &Arc<Self>, traffic: &Arc<Traffic>) -> Runner {
        *running.threads.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Runner(Arc::clone(running), Arc::clone(traffic))
    }

    /// Waits for the last; says whether it has gone.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.map(|time| Instant::now() + time);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while *threads > 0 {
            let Some(deadline) = deadline else {
                threads = self.ended.wait(threads).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self
                .ended
                .wait_timeout(threads, left)
                .unwrap_or_else(PoisonError::into_inner);
            threads = waited.0;
        }
        true
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        *threads -= 1;
        if *threads == 0 {
            drop(threads);
            // Reads that wait for the network have nobody to tell any more.
            self.1.interrupts.end();
            self.0.ended.notify_all();
        }
    }
}
