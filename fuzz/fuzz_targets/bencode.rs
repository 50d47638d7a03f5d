//! What is strict bencode has one encoding; what is let through beside it says the same once it is encoded anew; and a
//! value found in its dictionary stands there byte for byte.
#![no_main]

use instantmirror_core::bencode::{Strictness, Value, raw_value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let strict = Value::decode(data, Strictness::All);
    let lenient = Value::decode(data, Strictness::Keys);
    if let Ok(value) = &strict {
        assert_eq!(value.encode(), data, "one encoding");
        assert_eq!(lenient.as_ref(), Ok(value), "what is strict is let through");
    }
    let Ok(value) = lenient else { return };
    let again = value.encode();
    assert_eq!(Value::decode(&again, Strictness::All), Ok(value.clone()));
    let (first, end) = Value::decode_first(data, Strictness::Keys).expect("decoded before");
    assert_eq!((first, end), (value.clone(), data.len()));
    for (key, inner) in value.as_dict().into_iter().flatten() {
        let Ok(key) = std::str::from_utf8(key) else { continue };
        let raw = raw_value(data, key, Strictness::Keys).expect("decoded before");
        let raw = raw.expect("the key is there");
        assert_eq!(Value::decode(raw, Strictness::Keys).as_ref(), Ok(inner));
    }
});
