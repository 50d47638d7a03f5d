//! What is read as bencode is written as it stood there, and a value is found where it stands.
#![no_main]

use instantmirror_core::bencode::{Strictness, Value, raw_value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let loose = Value::decode(data, Strictness::Keys);
    let Ok(value) = Value::decode(data, Strictness::All) else {
        if let Ok(value) = loose {
            let sorted = value.encode();
            assert_eq!(sorted.len(), data.len(), "only the order may differ");
            assert_eq!(Value::decode(&sorted, Strictness::All).as_ref(), Ok(&value));
        }
        return;
    };
    assert_eq!(loose.as_ref(), Ok(&value));
    assert_eq!(value.encode(), data);
    let longer = [data, b"i1e"].concat();
    assert_eq!(Value::decode_first(&longer, Strictness::All), Ok((value.clone(), data.len())));
    for (key, inner) in value.as_dict().into_iter().flatten() {
        if let Ok(key) = std::str::from_utf8(key) {
            let raw = raw_value(data, key, Strictness::All).expect("it was read before");
            assert_eq!(raw, Some(&inner.encode()[..]));
        }
    }
});
