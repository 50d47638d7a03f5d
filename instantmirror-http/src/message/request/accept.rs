//! What a client likes how much: Accept and Accept-Encoding (RFC 9110, section 12).

/// Thousandths of 1: the weight of what is taken without reserve.
const WEIGHT_MAX: u16 = 1000;

/// The members of a list with their weights in thousandths. A member whose weight cannot be read counts as refused: an
/// answer that was not asked for so may be one that the client cannot read.
fn weighted(list: &str) -> impl Iterator<Item = (&str, u16)> {
    let members = list.split(',').map(str::trim).filter(|member| !member.is_empty());
    members.map(|member| {
        let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
        let weight = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
        });
        (name.trim(), weight.map_or(WEIGHT_MAX, thousandths))
    })
}

/// `0`, `0.5`, `1.000`: a weight in thousandths; 0 for what is none.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "1" if are_digits && fraction.bytes().all(|byte| byte == b'0') => WEIGHT_MAX,
        "0" if are_digits => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// How much a client that sends this Accept likes a media type, and how plainly it says so; `None`: not at all. Compares
/// with that of another type.
#[must_use]
pub fn media_preference(accept: &str, media: &str) -> Option<(u16, u8)> {
    let family = media.split_once('/').map_or(media, |(family, _)| family);
    let plainness = |range: &str| {
        let is_family = range
            .strip_suffix("/*")
            .is_some_and(|range| range.eq_ignore_ascii_case(family));
        match range {
            _ if range.eq_ignore_ascii_case(media) => Some(2),
            _ if is_family => Some(1),
            "*/*" => Some(0),
            _ => None,
        }
    };
    let fitting = weighted(accept).filter_map(|(range, weight)| Some((plainness(range)?, weight)));
    let (plainness, weight) = fitting.max_by_key(|(plainness, _)| *plainness)?;
    (weight > 0).then_some((weight, plainness))
}

/// The weight that an Accept-Encoding gives a coding by its name, and the one that it gives to all it does not name.
#[must_use]
pub(crate) fn coding_weights(accept: &str, name: &str) -> (Option<u16>, Option<u16>) {
    let of =
        |name: &str| weighted(accept).find_map(|(coding, weight)| coding.eq_ignore_ascii_case(name).then_some(weight));
    (of(name), of("*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_thousandths() {
        for (text, weight) in [
            ("1", 1000),
            ("1.", 1000),
            ("1.000", 1000),
            ("0", 0),
            ("0.5", 500),
            ("0.05", 50),
            ("0.001", 1),
            ("0.0001", 0),
            ("1.5", 0),
            ("2", 0),
            ("-1", 0),
            ("x", 0),
            ("", 0),
        ] {
            assert_eq!(thousandths(text), weight, "{text:?}");
        }
    }

    #[test]
    fn the_plainest_word_about_a_type_counts() {
        let json = |accept| media_preference(accept, "application/json");
        for (accept, expected) in [
            ("application/json", Some((1000, 2))),
            ("Application/JSON ; Q=0.3", Some((300, 2))),
            ("application/*;q=0.2, */*", Some((200, 1))),
            ("*/*, application/json;q=0", None),
            ("*/*;q=0.1", Some((100, 0))),
            ("text/html", None),
            ("application/json;charset=utf-8;q=0.4", Some((400, 2))),
            ("", None),
        ] {
            assert_eq!(json(accept), expected, "{accept}");
        }
    }
}
