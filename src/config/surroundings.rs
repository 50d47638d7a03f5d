//! What a configuration names on this machine: files, directories, addresses. Looked at with the rights of who asks, and
//! without changing anything, so that a start does not have to fail first.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{HttpConfig, Report};

/// Most bytes of the path of a Unix socket (`sun_path` without its zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Certificate, key and access log.
pub(super) fn check_http(config: &HttpConfig, report: &mut Report<'_>) {
    if let Some(tls) = &config.tls {
        if let Err(error) = crate::tls::load(tls) {
            report.refuse("http.tls.certificate", error.to_string());
        }
        if let Some(note) = exposed_key(&tls.key) {
            report.note("http.tls.key", note);
        }
    }
    if let Some(root) = &config.root {
        check_directory("http.root", root, report);
    }
    if let Some(log) = &config.access_log {
        check_log(log, report);
    }
}

/// What is to be said of the key of a server if everybody can read it. It is no reason to refuse a start, which would take a site
/// off the net, and a group that may read it is usual (`ssl-cert` of Debian).
pub(crate) fn exposed_key(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode() & 0o7777;
    let shown = key.display();
    (mode & 0o004 != 0).then(|| {
        format!("{shown} is a private key that everybody on this machine can read (mode {mode:o}); `chmod o-rwx` it")
    })
}

fn check_log(log: &Path, report: &mut Report<'_>) {
    const PLACE: &str = "http.access_log";
    let shown = log.display();
    match std::fs::metadata(log) {
        Ok(found) if found.is_dir() => report.refuse(PLACE, format!("{shown} is a directory: name a file in it")),
        Ok(_) => {
            if let Err(error) = access(log, Access::WRITE_OK) {
                report.refuse(PLACE, format!("{shown} cannot be written: {error}"));
            }
        }
        Err(_) => {
            let dir = log
                .parent()
                .filter(|dir| !dir.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            if let Err(error) = access(dir, Access::WRITE_OK | Access::EXEC_OK) {
                let text = format!("{shown} cannot be made: {}: {error}", dir.display());
                report.refuse(PLACE, text);
            }
        }
    }
}

/// Whether the addresses are of this machine. Asked of UDP and of no port in particular, so that nothing that runs is
/// disturbed and a daemon may be running there.
pub(super) fn check_addresses(addresses: &[(String, SocketAddr)], report: &mut Report<'_>) {
    let privileged = first_unprivileged_port();
    for (place, address) in addresses {
        if let Err(error) = probe(*address) {
            let text = match error.kind() {
                ErrorKind::AddrNotAvailable => format!("{address}: this machine has no such address now"),
                _ => format!("{address} cannot be listened on: {error}"),
            };
            report.refuse(place, text);
        }
        if address.port() != 0 && address.port() < privileged && !rustix::process::geteuid().is_root() {
            let text = format!(
                "{address}: ports below {privileged} take a privilege that you do not have; give it to the service \
                 (`AmbientCapabilities=CAP_NET_BIND_SERVICE`)"
            );
            report.note(place, text);
        }
    }
}

/// Takes the address and lets it go again. One of IPv4 that is written as IPv6 needs a socket for both families, as the start makes
/// it whatever the system's default is.
fn probe(address: SocketAddr) -> rustix::io::Result<()> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address.ip(), 0))
}

fn first_unprivileged_port() -> u16 {
    let said = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    said.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// A directory that has to be there and to be readable.
pub(super) fn check_directory(place: &str, dir: &Path, report: &mut Report<'_>) {
    if let Err(error) = std::fs::read_dir(dir) {
        report.refuse(place, format!("{}: {error}", dir.display()));
    }
}

/// A directory that has to be writable, or to be made by the start.
pub(super) fn check_writable(place: &str, dir: &Path, report: &mut Report<'_>) {
    let shown = dir.display();
    // What stands in front of a missing directory has to take it.
    let mut there = dir.ancestors().map(|dir| {
        if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        }
    });
    let Some(there) = there.find(|dir| std::fs::symlink_metadata(dir).is_ok()) else {
        return report.refuse(place, format!("{shown} cannot be made"));
    };
    match std::fs::metadata(there) {
        Ok(found) if !found.is_dir() => report.refuse(place, format!("{} is no directory", there.display())),
        Ok(_) => {
            if let Err(error) = access(there, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
                report.refuse(
                    place,
                    format!("{shown}: {} cannot be written: {error}", there.display()),
                );
            }
        }
        Err(error) => report.refuse(place, format!("{shown}: {error}")),
    }
}

/// The control socket. Its directory has to be there, unless it is the daemon's `own` one or above that: those the start makes.
pub(super) fn check_socket(socket: &Path, own: Option<&Path>, report: &mut Report<'_>) {
    const PLACE: &str = "control.socket";
    let bytes = socket.as_os_str().as_bytes().len();
    let shown = socket.display();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let text = format!(
            "the control socket {shown} has a path of {bytes} bytes, and {SOCKET_PATH_BYTES_MAX} are the most; give it a \
             shorter one in [control] socket"
        );
        report.refuse(PLACE, text);
    }
    match std::fs::symlink_metadata(socket).map(|found| found.file_type()) {
        Ok(found) if found.is_dir() => {
            return report.refuse(PLACE, format!("{shown} is a directory: name a file in it"));
        }
        Ok(found) if !found.is_socket() => {
            let text = format!("{shown} is there and is no socket: name another place, or remove it");
            return report.refuse(PLACE, text);
        }
        _ => {}
    }
    let Some(dir) = socket.parent() else { return };
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    if dir.exists() || own.is_some_and(|own| own.starts_with(dir)) {
        check_writable(PLACE, dir, report);
    } else {
        let text = format!("{shown}: there is no directory {}: make it first", dir.display());
        report.refuse(PLACE, text);
    }
}

/// The directory of a cache: what is in it already.
pub(super) fn check_cache(dir: &Path, report: &mut Report<'_>) {
    const PLACE: &str = "cache.dir";
    if crate::layout::is_store(dir) {
        let text = format!(
            "{} is the store of a master: give the cache a directory of its own",
            dir.display()
        );
        report.refuse(PLACE, text);
    } else if !crate::layout::is_cache(dir)
        && let Some(other) = std::fs::read_dir(dir).ok().and_then(|mut all| all.find_map(Result::ok))
    {
        let text = format!(
            "{} holds something else, {} for one: it would not be touched, but a directory of its own is better for a cache",
            dir.display(),
            other.file_name().display()
        );
        report.note(PLACE, text);
    }
    check_writable(PLACE, dir, report);
}
