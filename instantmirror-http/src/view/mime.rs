//! Media types by file name, for what mirrors hold. A table of our own: the general ones call a `.zst` unknown, take
//! keys for signatures, and have browsers store what people want to read.
//!
//! A charset is named for plain text alone, which cannot say what it is written in itself and is UTF-8 nearly always;
//! HTML, CSS and XML can, and a header would overrule what an old page says of itself.

const UNKNOWN: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

/// The media type of a file called `name`.
#[must_use]
pub(crate) fn media_type(name: &str) -> &'static str {
    by_whole_name(name)
        .or_else(|| {
            let (stem, extension) = name.rsplit_once('.')?;
            let is_one = !stem.is_empty() && !extension.is_empty() && extension.len() <= EXTENSION_BYTES_MAX;
            is_one.then(|| by_extension(&extension.to_ascii_lowercase())).flatten()
        })
        .or_else(|| is_read_by_people(name).then_some(TEXT))
        .unwrap_or(UNKNOWN)
}

const EXTENSION_BYTES_MAX: usize = 12;

/// Names that mean something other than their extension, or have none.
fn by_whole_name(name: &str) -> Option<&'static str> {
    match name {
        "Release.gpg" => Some("application/pgp-signature"),
        "Release" | "InRelease" | "Packages" | "Sources" | "Index" | "TIMESTAMP" | ".treeinfo" | ".discinfo"
        | ".buildinfo" | "ls-lR" | "lastsync" | "lastupdate" | "fullfilelist" | "imagelist-fedora" => Some(TEXT),
        _ => None,
    }
}

/// Whether a name without an extension that is known is one of those that people like to read in the browser:
/// `README.mirrors`, `COPYING`, `SHA256SUMS`, `Fedora-Server-40-x86_64-CHECKSUM`.
fn is_read_by_people(name: &str) -> bool {
    const BEGINNINGS: [&str; 16] = [
        "AUTHORS",
        "CHANGELOG",
        "CHANGES",
        "COPYING",
        "COPYRIGHT",
        "CREDITS",
        "FAQ",
        "FOOTER",
        "HEADER",
        "INSTALL",
        "LICENCE",
        "LICENSE",
        "MIRRORS",
        "NEWS",
        "NOTICE",
        "README",
    ];
    // In lower case they are names of programs' own files.
    const CAPITALS: [&str; 7] = [
        "EULA",
        "GPL",
        "INDEX",
        "KEYS",
        "MANIFEST",
        "RELEASE-NOTES",
        "RPM-GPG-KEY",
    ];
    let upper = name.to_ascii_uppercase();
    let begins = |name: &str, word: &str| {
        let rest = name.strip_prefix(word);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
    };
    is_checksums(&upper)
        || BEGINNINGS.iter().any(|word| begins(&upper, word))
        || CAPITALS.iter().any(|word| begins(name, word))
        || name.starts_with("Contents-")
}

/// Whether the last word of a name, behind a hyphen or a full stop, or the first one is that of a list of checksums: `SHA256SUMS`,
/// `md5sum`, `B2SUMS`, `SHA512`, `DIGESTS`, `Fedora-40-x86_64-CHECKSUM`, `Rocky-9.4.iso.CHECKSUM`, `CHECKSUM.SHA256-FreeBSD-14`.
fn is_checksums(upper: &str) -> bool {
    let mut words = upper.split(['-', '.', '_']);
    let (first, last) = (words.clone().next(), words.next_back());
    first.is_some_and(is_checksum_word) || last.is_some_and(is_checksum_word)
}

fn is_checksum_word(word: &str) -> bool {
    let singular = word.strip_suffix('S').unwrap_or(word);
    let (kind, has_sum) = match singular.strip_suffix("SUM") {
        Some(kind) => (kind, true),
        None => (singular, false),
    };
    let name = kind.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let has_digits = name.len() < kind.len();
    match name {
        "CHECK" | "CK" => has_sum,
        "SHA" | "MD" | "B" | "BLAKE" => has_sum || has_digits && name != "B",
        "DIGEST" => !has_sum && !has_digits,
        _ => false,
    }
}

fn by_extension(extension: &str) -> Option<&'static str> {
    package_or_archive(extension)
        .or_else(|| of_the_web(extension))
        .or_else(|| document_or_media(extension))
}

/// What mirrors are there for, and what says how to get or trust it.
fn package_or_archive(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "deb" | "udeb" | "ddeb" => "application/vnd.debian.binary-package",
        "rpm" | "drpm" => "application/x-rpm",
        "apk" => "application/vnd.android.package-archive",
        "flatpak" => "application/vnd.flatpak",
        "flatpakref" => "application/vnd.flatpak.ref",
        "flatpakrepo" => "application/vnd.flatpak.repo",
        "appimage" => "application/vnd.appimage",
        "gz" | "tgz" | "crate" => "application/gzip",
        "xz" | "txz" => "application/x-xz",
        "zst" | "tzst" => "application/zstd",
        "bz2" | "tbz" | "tbz2" => "application/x-bzip2",
        "lzma" => "application/x-lzma",
        "lz" => "application/x-lzip",
        "lz4" => "application/x-lz4",
        "br" => "application/x-brotli",
        "zck" => "application/x-zchunk",
        "zip" | "whl" | "egg" => "application/zip",
        "7z" => "application/x-7z-compressed",
        "rar" => "application/vnd.rar",
        "tar" => "application/x-tar",
        "cpio" => "application/x-cpio",
        "jar" | "war" => "application/java-archive",
        "iso" => "application/x-iso9660-image",
        // A `.db` is a tar archive for pacman and a database for others, a `.gpg` is a key, a signature or a secret.
        "img" | "raw" | "qcow2" | "vmdk" | "bin" | "squashfs" | "efi" | "gem" | "db" | "gpg" | "exe" | "msi"
        | "dll" | "snap" => UNKNOWN,
        "torrent" => "application/x-bittorrent",
        "metalink" => "application/metalink+xml",
        "meta4" => "application/metalink4+xml",
        "zsync" => "application/x-zsync",
        "jigdo" => "application/x-jigdo",
        "template" => "application/x-jigdo-template",
        "key" => "application/pgp-keys",
        "asc" | "sig" | "sign" => "application/pgp-signature",
        "pgp" => "application/pgp-encrypted",
        "crt" => "application/x-x509-ca-cert",
        "cer" => "application/pkix-cert",
        "sqlite" | "sqlite3" => "application/vnd.sqlite3",
        "txt" | "text" | "log" | "md" | "dsc" | "changes" | "buildinfo" | "manifest" | "list" | "conf" | "cfg"
        | "ini" | "repo" | "spec" | "diff" | "patch" | "debdiff" | "sh" | "py" | "pl" | "pm" | "c" | "h" | "rs"
        | "rst" | "sha1" | "sha224" | "sha256" | "sha384" | "sha512" | "md5" | "b2" | "b3" | "sum" | "sums"
        | "md5sum" | "sha1sum" | "sha256sum" | "sha512sum" | "digests" | "packages" | "mirrorlist" => TEXT,
        _ => return None,
    })
}

fn of_the_web(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "html" | "htm" => "text/html",
        "xhtml" | "xht" => "application/xhtml+xml",
        "css" => "text/css",
        "csv" => "text/csv",
        "tsv" => "text/tab-separated-values",
        "js" | "mjs" => "text/javascript",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "xml" | "xsd" => "application/xml",
        "rss" => "application/rss+xml",
        "atom" => "application/atom+xml",
        "yaml" | "yml" => "application/yaml",
        "toml" => "application/toml",
        "wasm" => "application/wasm",
        "ics" => "text/calendar",
        _ => return None,
    })
}

fn document_or_media(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "pdf" => "application/pdf",
        "ps" => "application/postscript",
        "rtf" => "application/rtf",
        "epub" => "application/epub+zip",
        "odt" => "application/vnd.oasis.opendocument.text",
        "ods" => "application/vnd.oasis.opendocument.spreadsheet",
        "odp" => "application/vnd.oasis.opendocument.presentation",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" | "svgz" => "image/svg+xml",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "ico" => "image/vnd.microsoft.icon",
        "mp3" => "audio/mpeg",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "flac" => "audio/flac",
        "m4a" => "audio/mp4",
        "mp4" => "video/mp4",
        "mpg" | "mpeg" => "video/mpeg",
        "ogv" => "video/ogg",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_files_have_their_types() {
        for (name, expected) in [
            ("hello_2.10-3_amd64.deb", "application/vnd.debian.binary-package"),
            ("bash-5.2.rpm", "application/x-rpm"),
            ("Packages.xz", "application/x-xz"),
            ("primary.xml.zst", "application/zstd"),
            ("repomd.xml.asc", "application/pgp-signature"),
            ("core.db.sig", "application/pgp-signature"),
            ("patch-6.1.sign", "application/pgp-signature"),
            ("Release.gpg", "application/pgp-signature"),
            ("debian-archive-keyring.gpg", UNKNOWN),
            ("core.db", UNKNOWN),
            ("Fedora.ISO", "application/x-iso9660-image"),
            ("x.torrent", "application/x-bittorrent"),
            ("repomd.xml", "application/xml"),
            ("gnome.flatpakref", "application/vnd.flatpak.ref"),
            ("flathub.flatpakrepo", "application/vnd.flatpak.repo"),
            ("InRelease", TEXT),
            (".treeinfo", TEXT),
            ("Contents-amd64", TEXT),
            ("index.html", "text/html"),
            ("old.HTM", "text/html"),
            ("page.xhtml", "application/xhtml+xml"),
            ("style.css", "text/css"),
            ("module.mjs", "text/javascript"),
            ("noextension", UNKNOWN),
            (".deb", UNKNOWN),
            ("x.", UNKNOWN),
            ("x.thisisnoextension", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(media_type(name), expected, "{name}");
        }
    }

    #[test]
    fn what_people_read_is_text() {
        for name in [
            "README",
            "README.mirrors",
            "README-security",
            "Readme",
            "README.CD-manufacture",
            "COPYING",
            "COPYING.LESSER",
            "LICENSE-MIT",
            "ChangeLog",
            "ChangeLog-2.6.1",
            "SHA256SUMS",
            "SHA512SUM",
            "sha256sums",
            "MD5SUMS",
            "md5sum",
            "B2SUMS",
            "CHECKSUM",
            "Fedora-Server-40-1.14-x86_64-CHECKSUM",
            "foo.sha256",
            "foo.iso.sha256sum",
            "foo.iso.sha256sums",
            "foo.md5sums",
            "Rocky-9.4-x86_64-dvd.iso.CHECKSUM",
            "CHECKSUM.SHA256-FreeBSD-14.0-RELEASE-amd64",
            "SHA256",
            "SHA512",
            "DIGESTS",
            "RPM-GPG-KEY-Rocky-9",
            "KEYS",
            "MANIFEST",
            "INDEX",
            "RELEASE-NOTES",
            "EULA",
            "GPL",
        ] {
            assert_eq!(media_type(name), TEXT, "{name}");
        }
        for (name, expected) in [
            ("README.html", "text/html"),
            ("README.gz", "application/gzip"),
            ("SHA256SUMS.gpg", UNKNOWN),
            ("SHA256SUMS.zst", "application/zstd"),
            ("SHARED", UNKNOWN),
            ("index", UNKNOWN),
            ("B", UNKNOWN),
            ("B2", UNKNOWN),
            ("archive.key", "application/pgp-keys"),
            ("logo.svgz", "image/svg+xml"),
            ("foo-sha256.bin", UNKNOWN),
            ("SHA256SUMS.sign", "application/pgp-signature"),
            ("NEWSLETTER", UNKNOWN),
            ("READMEFIRST", UNKNOWN),
            ("consum", UNKNOWN),
        ] {
            assert_eq!(media_type(name), expected, "{name}");
        }
    }
}
