//! Several requests at once, and requests in pieces: the same bytes are the same requests.

use crate::case::Case;

/// Segments in which a request may arrive.
const SEGMENTS: [usize; 4] = [1, 2, 7, 33];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = pipelines();
    cases.extend(segmented());
    cases
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn pipelines() -> Vec<Case> {
    let one = get("/pub/one");
    let kilo = get("/pub/kilo");
    let head = "HEAD /pub/kilo HTTP/1.1\r\nHost: h\r\n\r\n";
    let last = "GET /pub/one HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let range = "GET /pub/kilo HTTP/1.1\r\nHost: h\r\nRange: bytes=5-9\r\n\r\n";
    let same = "GET /pub/kilo HTTP/1.1\r\nHost: h\r\nIf-None-Match: {etag}\r\n\r\n";
    let bad = "GET /pub/kilo HTTP/1.1\r\nHost h\r\n\r\n";
    let old = "GET /pub/one HTTP/1.0\r\n\r\n";
    let post = "POST /pub/one HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
    vec![
        Case::raw("pipeline: two", one.repeat(2)),
        Case::raw("pipeline: sixteen", kilo.repeat(16)),
        Case::raw("pipeline: a hundred", one.repeat(100)),
        Case::raw("pipeline: large and small", format!("{}{one}", get("/pub/large"))),
        Case::raw("pipeline: three large", get("/pub/large").repeat(3)),
        Case::raw(
            "pipeline: empty file between",
            format!("{one}{}{one}", get("/pub/empty")),
        ),
        Case::raw("pipeline: HEAD between", format!("{one}{head}{one}")).head_at(1),
        Case::raw("pipeline: HEADs only", head.repeat(3)).head_at(1).head_at(2),
        Case::raw("pipeline: ranges", range.repeat(5)),
        Case::raw("pipeline: 304s", same.repeat(5)),
        Case::raw("pipeline: 304 between", format!("{kilo}{same}{kilo}")),
        Case::raw("pipeline: 404 between", format!("{one}{}{one}", get("/pub/missing"))),
        Case::raw("pipeline: redirect between", format!("{one}{}{one}", get("/pub/dir"))),
        Case::raw("pipeline: close in the middle", format!("{one}{last}{one}")),
        Case::raw("pipeline: HTTP/1.0 in the middle", format!("{one}{old}{one}")),
        Case::raw("pipeline: malformed in the middle", format!("{one}{bad}{one}")),
        Case::raw("pipeline: malformed first", format!("{bad}{one}")),
        Case::raw(
            "pipeline: nonsense in the middle",
            format!("{one}nonsense\r\n\r\n{one}"),
        ),
        Case::raw("pipeline: CRLF between", format!("{one}\r\n{one}")),
        Case::raw("pipeline: three CRLF between", format!("{one}\r\n\r\n\r\n{one}")),
        Case::raw("pipeline: LF between", format!("{one}\n{one}")),
        Case::raw("pipeline: blank between", format!("{one} {one}")),
        Case::raw("pipeline: NUL between", format!("{one}\0{one}")),
        Case::raw("pipeline: POST with body between", format!("{one}{post}{one}")),
        Case::raw("pipeline: POST with body first", format!("{post}{one}")),
        Case::raw("pipeline: mixed", format!("{one}{range}{head}{same}{kilo}")).head_at(2),
    ]
}

/// The same bytes in other segments are the same requests.
fn segmented() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SEGMENTS {
        let mut add = |name: &str, bytes: String| {
            cases.push(Case::raw(format!("segments of {size}: {name}"), bytes).in_segments_of(size));
        };
        add("one request", get("/pub/kilo"));
        add("two requests", get("/pub/one").repeat(2));
        add(
            "malformed",
            "GET /pub/kilo HTTP/1.1\r\nHost: h\r\nX y\r\n\r\n".to_owned(),
        );
        add(
            "two Hosts",
            "GET /pub/kilo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        );
        add("bad version", "GET /pub/kilo HTTP/x.y\r\nHost: h\r\n\r\n".to_owned());
        add("HTTP/1.0", "GET /pub/kilo HTTP/1.0\r\n\r\n".to_owned());
        add("CRLF before", format!("\r\n{}", get("/pub/one")));
    }
    cases
}
