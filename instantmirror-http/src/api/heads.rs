//! Heads: of one repository, and the question for those of many (docs/formats/api.md). Both wait, and hold nothing but a
//! task while they do.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use instantmirror_core::head::SignedHead;
use instantmirror_core::heads::{self, HeadMarksError, HeadQuestion};
use instantmirror_core::traits::{Catalogs, NodeApi};
use instantmirror_core::{HeadMark, HeadMarks, RepoName};

use super::access::Sight;
use super::{error, no_news, whole};
use crate::body::Answer;
use crate::limits::{LONG_POLL_MAX, Stopping};
use crate::message::request::{Request, query_value};

/// `GET head`.
pub(super) async fn head(
    node_api: &dyn NodeApi,
    catalogs: &dyn Catalogs,
    repository: &RepoName,
    request: &Request<'_>,
    sight: &Sight,
    stopping: &Stopping,
) -> Answer {
    let query = request.query;
    let seal = |head: &SignedHead| whole("application/vnd.dsse+json", "no-cache", head.bytes().clone());
    let Some(after) = query_value(query, "after") else {
        let state = catalogs.state(repository);
        return match state.and_then(|state| state.head.clone()) {
            Some(head) => seal(&head),
            None => error(
                StatusCode::NOT_FOUND,
                &format!("repository '{repository}' has no head yet"),
            ),
        };
    };
    let (Some(after), Some(wait)) = (number(after), wait_of(query)) else {
        return error(
            StatusCode::BAD_REQUEST,
            "'after' is a sequence number and 'wait' a number of seconds",
        );
    };
    let known = HeadMarks::from([(repository.clone(), HeadMark::Sequence(after))]);
    let question = HeadQuestion {
        known,
        ..HeadQuestion::default()
    };
    sight.polled(&request.client, id_in(query), &question);
    let head = within(wait, node_api.head_after(repository, after), stopping).await;
    head.map_or_else(
        |over| over,
        |head| match head {
            Some(head) => seal(&head),
            None => error(
                StatusCode::NOT_FOUND,
                &format!("there is no repository '{repository}' here"),
            ),
        },
    )
}

/// `POST heads`. Anybody may ask for many repositories, and thousands may wait: while one does, it holds no more than what can
/// move here.
pub(super) async fn moved(
    node_api: &dyn NodeApi,
    request: &Request<'_>,
    body: Bytes,
    sight: &Sight,
    stopping: &Stopping,
) -> Answer {
    let query = request.query;
    let Some(wait) = wait_of(query) else {
        return error(StatusCode::BAD_REQUEST, "'wait' is a number of seconds");
    };
    let question = match HeadQuestion::decode(&body) {
        Ok(question) => question,
        Err(wrong) => {
            let is_long = wrong == HeadMarksError::Count && !body.is_empty();
            let status = if is_long {
                StatusCode::PAYLOAD_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            return error(status, &wrong.to_string());
        }
    };
    drop(body);
    sight.polled(&request.client, id_in(query), &question);
    let HeadQuestion { mut known, pending } = question;
    drop(pending);
    // While a server runs no repository comes to be.
    known.retain(|repository, mark| *mark != HeadMark::Absent || node_api.head_mark(repository) != HeadMark::Absent);
    let moved = within(wait, node_api.heads_moved(&known), stopping).await;
    moved.map_or_else(|over| over, |moved| marks(&moved))
}

fn marks(marks: &HeadMarks) -> Answer {
    whole("text/plain; charset=utf-8", "no-store", heads::encode(marks).into())
}

/// The number by which a node asks to be told from others at its address. One that is none is not looked at.
fn id_in(query: &str) -> Option<u64> {
    let text = query_value(query, "node").filter(|text| text.len() == 16)?;
    let is_lower_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(text, 16).ok().filter(|_| is_lower_hex)
}

/// How long to wait; `None` if the query says what cannot be understood.
pub(super) fn wait_of(query: &str) -> Option<Duration> {
    query_value(query, "wait").map_or(Some(LONG_POLL_MAX), |text| {
        number(text).map(|seconds| Duration::from_secs(seconds).min(LONG_POLL_MAX))
    })
}

/// What comes within some time; else the answer that nothing did.
async fn within<T>(wait: Duration, news: impl Future<Output = T>, stopping: &Stopping) -> Result<T, Answer> {
    tokio::select! {
        // What is there already goes before a wait of no seconds.
        biased;
        news = news => Ok(news),
        () = stopping.stopped() => {
            Err(error(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping; ask again"))
        }
        () = tokio::time::sleep(wait) => Err(no_news()),
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_by_sixteen_digits_and_by_nothing_else() {
        assert_eq!(id_in("wait=1&node=00000000000000ff"), Some(255));
        for query in [
            "",
            "node=",
            "node=ff",
            "node=00000000000000FF",
            "node=+0000000000000ff",
            "node=00000000000000ff0",
        ] {
            assert_eq!(id_in(query), None, "{query}");
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("99999999999999999999"), Some(u64::MAX));
        for text in ["", "+1", "-1", "1.0", "0x1", " 1"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
