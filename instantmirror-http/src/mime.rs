//! Media types by file name, for what mirrors hold. A table of our own: the general ones call a `.deb` or a
//! `.zst` unknown, and take `.rpm` for RealAudio.

/// The media type of a file called `name`.
#[must_use]
pub(crate) fn media_type(name: &str) -> &'static str {
    const UNKNOWN: &str = "application/octet-stream";
    let Some((stem, extension)) = name.rsplit_once('.') else {
        return by_whole_name(name).unwrap_or(UNKNOWN);
    };
    if stem.is_empty() || extension.is_empty() || extension.len() > 12 {
        return by_whole_name(name).unwrap_or(UNKNOWN);
    }
    let extension = extension.to_ascii_lowercase();
    by_extension(&extension)
        .or_else(|| by_whole_name(name))
        .unwrap_or(UNKNOWN)
}

/// Files without extension that people like to read in the browser.
fn by_whole_name(name: &str) -> Option<&'static str> {
    let text = matches!(
        name,
        "Release"
            | "InRelease"
            | "Packages"
            | "Sources"
            | "README"
            | "LICENSE"
            | "COPYING"
            | "CHECKSUM"
            | "MD5SUMS"
            | "SHA1SUMS"
            | "SHA256SUMS"
            | "SHA512SUMS"
            | "TIMESTAMP"
            | ".treeinfo"
            | ".discinfo"
    );
    text.then_some("text/plain; charset=utf-8")
}

fn by_extension(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "deb" | "udeb" | "ddeb" => "application/vnd.debian.binary-package",
        "rpm" | "drpm" => "application/x-rpm",
        "apk" => "application/vnd.android.package-archive",
        "gz" | "tgz" => "application/gzip",
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
        "tar" | "gem" => "application/x-tar",
        "cpio" => "application/x-cpio",
        "jar" | "war" => "application/java-archive",
        "iso" => "application/x-iso9660-image",
        "img" | "raw" | "qcow2" | "vmdk" | "bin" | "squashfs" | "efi" => "application/octet-stream",
        "torrent" => "application/x-bittorrent",
        "metalink" => "application/metalink+xml",
        "meta4" => "application/metalink4+xml",
        "zsync" => "application/x-zsync",
        "jigdo" => "application/x-jigdo",
        "asc" => "application/pgp-signature",
        "sig" | "gpg" | "pgp" => "application/pgp-encrypted",
        "crt" | "cer" => "application/pkix-cert",
        "txt" | "text" | "log" | "md" | "dsc" | "changes" | "buildinfo" | "manifest" | "list" | "conf" | "cfg"
        | "ini" | "repo" | "spec" | "diff" | "patch" | "sh" | "py" | "pl" | "pm" | "c" | "h" | "rs" | "rst"
        | "sha1" | "sha256" | "sha512" | "md5" | "sum" | "packages" => "text/plain; charset=utf-8",
        "html" | "htm" | "xhtml" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "xml" | "xsd" | "rss" | "atom" => "application/xml",
        "yaml" | "yml" => "application/yaml",
        "toml" => "application/toml",
        "pdf" => "application/pdf",
        "ps" => "application/postscript",
        "epub" => "application/epub+zip",
        "sqlite" | "db" => "application/vnd.sqlite3",
        "wasm" => "application/wasm",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        "ico" => "image/vnd.microsoft.icon",
        "mp3" => "audio/mpeg",
        "ogg" | "oga" => "audio/ogg",
        "flac" => "audio/flac",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
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
            ("Fedora.ISO", "application/x-iso9660-image"),
            ("x.torrent", "application/x-bittorrent"),
            ("repomd.xml", "application/xml"),
            ("InRelease", "text/plain; charset=utf-8"),
            (".treeinfo", "text/plain; charset=utf-8"),
            ("index.html", "text/html; charset=utf-8"),
            ("noextension", "application/octet-stream"),
            (".deb", "application/octet-stream"),
            ("x.", "application/octet-stream"),
            ("x.thisisnoextension", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(media_type(name), expected, "{name}");
        }
    }
}
