//! Character sets on hostile bytes: the first byte chooses the set, the rest is text in it, or a name.

#![no_main]

use labwire::hl7::{Charset, Header};
use libfuzzer_sys::fuzz_target;

const NAMES: &[&str] = &[
    "ASCII", "8859/1", "8859/2", "8859/5", "8859/6", "8859/7", "8859/8", "8859/9", "8859/15", "UNICODE UTF-8", "windows-1250",
    "windows-1252", "GB 18030-2000", "KS X 1001", "CNS 11643-1992", "BIG-5", "ISO IR87", "ISO IR14", "ISO IR159",
    "Shift_JIS", "EUC-JP",
];

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    let named = std::str::from_utf8(bytes).ok().and_then(Charset::named);
    let listed = NAMES.get(usize::from(*which) % NAMES.len()).and_then(|name| Charset::named(name));
    for charset in named.into_iter().chain(listed) {
        if charset.is_readable() {
            assert_eq!(Charset::named(charset.name()).map(|again| again.name()), Some(charset.name()));
        }
        let Ok(text) = charset.decode(bytes) else { continue };
        // A replaced character would be a loss; UTF-8 and GB 18030 can spell it out.
        let may_spell_it = charset.name() == "UTF-8" || charset.name().starts_with("GB");
        assert!(may_spell_it || !text.contains('\u{fffd}'), "{}", charset.name());
        if let Ok(again) = charset.encode(&text) {
            assert_eq!(charset.decode(&again).as_deref(), Ok(&*text), "{}", charset.name());
        }
    }
    let _ = Charset::detect(bytes, Header::scan(bytes).as_ref(), Some("8859/1"));
    if let Ok(text) = std::str::from_utf8(bytes) {
        for charset in listed {
            if let Ok(encoded) = charset.encode(text) {
                assert_eq!(charset.decode(&encoded).as_deref(), Ok(text), "{}", charset.name());
            }
        }
    }
});
