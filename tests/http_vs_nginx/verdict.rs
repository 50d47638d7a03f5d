//! Whether what our server did with a case is right, with nginx as the oracle. Pure: it compares two outcomes.

use crate::case::{Case, Content, Expected};
use crate::wire::{Answer, End, Outcome, status_text};

/// How our outcome stands to nginx's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The same for every client.
    Same,
    /// We refuse with 4xx and close where nginx goes on, or goes on further.
    Stricter,
    /// We served, or kept a connection, where nginx refused, closed or waits: how smuggling begins.
    Laxer,
    /// Neither: another answer.
    Other,
}

/// `None` if all is well, else what is wrong.
pub(crate) fn judge(case: &Case, our: &Outcome, nginx: &Outcome, may_be_laxer: bool) -> Option<String> {
    let (relation, what) = relate(our, nginx, case.content);
    let said = our.to_string();
    let complaint = match (case.expected, relation) {
        (_, Relation::Laxer) if !may_be_laxer => format!("laxer than nginx, which this theme never allows: {what}"),
        (Expected::Same, Relation::Same | Relation::Stricter) => return None,
        (Expected::Same, _) => format!("an unexplained difference: {what}"),
        (Expected::Explained { ours, .. }, _) if said != ours => {
            format!("explained as `{ours}`, which it is not any more")
        }
        (Expected::Explained { .. }, Relation::Same) => "explained, but there is no difference any more".to_owned(),
        (Expected::Explained { .. }, _) => return None,
    };
    Some(format!(
        "{}: {complaint}\n    ours:  {said}\n    nginx: {nginx}",
        case.name
    ))
}

/// Compares answer by answer, interim ones left out; says what the first difference is.
pub(crate) fn relate(our: &Outcome, nginx: &Outcome, content: Content) -> (Relation, String) {
    let (ours, theirs) = (our.finals(), nginx.finals());
    let mut pairs = ours.iter().zip(&theirs).enumerate();
    let differing = pairs.find_map(|(i, (a, b))| Some((i, difference(a, b, content)?)));
    let common = ours.len().min(theirs.len());
    let (at, what) = match differing {
        Some(found) => found,
        None if ours.len() != theirs.len() => (common, "another number of answers".to_owned()),
        None if our.end != nginx.end => (common, "the connection ends otherwise".to_owned()),
        None => return (Relation::Same, String::new()),
    };
    let last_is_refusal = ours.last().is_some_and(|answer| is_refusal(answer));
    let refuses = last_is_refusal && (ours.len() == at + 1 || ours.len() == at);
    // Closing without a word is ruder than nginx's 400, and no laxer.
    let hangs_up = ours.len() == at && theirs.get(at).is_some_and(|answer| is_refusal(answer));
    let relation = if is_laxer(our, nginx, at) {
        Relation::Laxer
    } else if our.end == End::Closed && (refuses || hangs_up) {
        Relation::Stricter
    } else {
        Relation::Other
    };
    (relation, what)
}

fn is_refusal(answer: &Answer) -> bool {
    answer.status >= 400
}

/// Whether we served something from answer `at` on, or went on to the canary, where nginx did not.
fn is_laxer(our: &Outcome, nginx: &Outcome, at: usize) -> bool {
    let (ours, theirs) = (our.finals(), nginx.finals());
    let serves_more =
        (at..ours.len()).any(|i| !is_refusal(ours[i]) && theirs.get(i).is_none_or(|answer| is_refusal(answer)));
    serves_more || (our.end == End::Kept && nginx.end != End::Kept)
}

/// What differs between two answers to one request, if anything that counts does.
fn difference(our: &Answer, nginx: &Answer, content: Content) -> Option<String> {
    if our.status != nginx.status && !(is_plain_refusal(our) && is_plain_refusal(nginx)) {
        let (our, nginx) = (status_text(our.status), status_text(nginx.status));
        return Some(format!("status {our}, nginx {nginx}"));
    }
    let fields: &[&str] = match our.status {
        200 if content == Content::Page => &[],
        200 => &["content-length", "last-modified", "accept-ranges"],
        206 => &["content-range", "last-modified"],
        304 => &["last-modified"],
        416 => &["content-range"],
        _ => &[],
    };
    if our.status == 301 && !leads_the_same(our, nginx) {
        let (our, nginx) = (our.header("location"), nginx.header("location"));
        return Some(format!("location {our:?}, nginx {nginx:?}"));
    }
    let differs = |name: &&&str| our.header(name) != nginx.header(name);
    if let Some(name) = fields.iter().find(differs) {
        let (our, nginx) = (our.header(name), nginx.header(name));
        return Some(format!("{name} {our:?}, nginx {nginx:?}"));
    }
    if !matches!(our.status, 200 | 206) || content == Content::Page {
        return None;
    }
    if our.status == 206 && our.header("content-range").is_none() {
        let (our, nginx) = (parts(our), parts(nginx));
        return (our != nginx || our.is_none()).then(|| format!("parts {our:?}, nginx {nginx:?}"));
    }
    (our.body != nginx.body).then(|| format!("{} bytes of content, nginx {}", our.body.len(), nginx.body.len()))
}

/// Whether our relative redirect, which adds a slash to the last name, leads where nginx's absolute one does.
fn leads_the_same(our: &Answer, nginx: &Answer) -> bool {
    let (our, nginx) = (our.header("location"), nginx.header("location"));
    let parent = our.zip(nginx).and_then(|(our, nginx)| nginx.strip_suffix(our));
    parent.is_some_and(|parent| parent.ends_with('/'))
}

/// Refusals whose exact number a client has no use for; 412 and 416 mean something of their own.
fn is_plain_refusal(answer: &Answer) -> bool {
    is_refusal(answer) && !matches!(answer.status, 412 | 416)
}

/// The parts of a multipart/byteranges body: Content-Range and payload of each. `None` if it is malformed.
fn parts(answer: &Answer) -> Option<Vec<(String, Vec<u8>)>> {
    let media = answer.header("content-type")?;
    let boundary = media.strip_prefix("multipart/byteranges; boundary=")?;
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = take_until(&answer.body, delimiter.as_bytes())?.1;
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let (head, behind) = take_until(rest, b"\r\n\r\n")?;
        let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
        let range = head.lines().find_map(|line| line.strip_prefix("content-range: "))?;
        let (payload, behind) = take_until(behind, delimiter.as_bytes())?;
        parts.push((range.to_owned(), payload.to_vec()));
        rest = behind;
    }
    (rest == b"--\r\n").then_some(parts)
}

fn take_until<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(statuses: &[u16], end: End) -> Outcome {
        let answer = |&status: &u16| Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        let answers = statuses.iter().map(answer).collect();
        Outcome { answers, end }
    }

    #[test]
    fn outcomes_are_told_apart() {
        use End::{Closed, Kept, Waiting};
        let cases = [
            (outcome(&[200], Kept), outcome(&[200], Kept), Relation::Same),
            (outcome(&[404], Kept), outcome(&[400], Kept), Relation::Same),
            (outcome(&[400], Closed), outcome(&[200], Kept), Relation::Stricter),
            (outcome(&[400], Closed), outcome(&[], Waiting), Relation::Stricter),
            (outcome(&[400], Closed), outcome(&[404], Kept), Relation::Stricter),
            (
                outcome(&[200, 400], Closed),
                outcome(&[200, 200], Kept),
                Relation::Stricter,
            ),
            (outcome(&[200], Kept), outcome(&[400], Closed), Relation::Laxer),
            (outcome(&[400], Kept), outcome(&[400], Closed), Relation::Laxer),
            (outcome(&[400, 200], Closed), outcome(&[400], Closed), Relation::Laxer),
            (outcome(&[200], Kept), outcome(&[], Waiting), Relation::Laxer),
            (outcome(&[400], Kept), outcome(&[200], Kept), Relation::Other),
            (outcome(&[200], Kept), outcome(&[100, 200], Kept), Relation::Same),
            (outcome(&[], Closed), outcome(&[400], Closed), Relation::Stricter),
            (outcome(&[], Closed), outcome(&[200], Kept), Relation::Other),
            (outcome(&[304], Kept), outcome(&[200], Kept), Relation::Other),
            (outcome(&[416], Kept), outcome(&[400], Kept), Relation::Other),
        ];
        for (our, nginx, relation) in cases {
            assert_eq!(relate(&our, &nginx, Content::Bytes).0, relation, "{our} | {nginx}");
        }
    }

    #[test]
    fn explanations_excuse_what_they_name_and_nothing_else() {
        let ours = |ours| Expected::Explained { ours, why: "a reason" };
        let case = |expected| Case {
            expected,
            ..Case::raw("case", "")
        };
        let (kept, refused) = (outcome(&[204], End::Kept), outcome(&[405], End::Kept));
        assert!(judge(&case(Expected::Same), &kept, &refused, true).is_some());
        assert!(judge(&case(ours("204 kept")), &kept, &refused, true).is_none());
        assert!(judge(&case(ours("204 kept")), &kept, &refused, false).is_some());
        assert!(judge(&case(ours("204 closed")), &kept, &refused, true).is_some());
        assert!(judge(&case(ours("204 kept")), &kept, &kept, true).is_some());
    }

    #[test]
    fn parts_are_compared_whatever_their_boundary() {
        let answer = |boundary: &str, lead: &str| Answer {
            status: 206,
            headers: vec![(
                "content-type".into(),
                format!("multipart/byteranges; boundary={boundary}"),
            )],
            body: format!("{lead}\r\n--{boundary}\r\nContent-Range: bytes 0-0/9\r\n\r\na\r\n--{boundary}--\r\n").into(),
        };
        let (one, other) = (answer("x", ""), answer("y", "preamble"));
        assert_eq!(parts(&one), Some(vec![("bytes 0-0/9".to_owned(), b"a".to_vec())]));
        assert_eq!(difference(&one, &other, Content::Bytes), None);
    }
}
