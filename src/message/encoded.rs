//! A message in another character set, as a destination's `charset` asks for.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Body;
use crate::hl7::Charset;

/// A body that leaves in another set than UTF-8, and can still be read.
#[derive(Clone)]
pub struct Encoded {
    /// What it holds.
    pub body: Arc<Body>,
    /// The set that it leaves in.
    pub charset: Charset,
    bytes: Bytes,
}

impl Encoded {
    /// What leaves.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({:?}, {})", self.body.format(), self.charset)
    }
}

/// A body that cannot be written in a set. Names the place, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unencodable {
    /// HL7.
    #[error(transparent)]
    Hl7(#[from] crate::hl7::EditError),
    /// A character that the set does not have.
    #[error("line {line}, character {column} does not exist in {charset}")]
    Character {
        /// Its line, from 1.
        line: usize,
        /// Its place in the line, from 1.
        column: usize,
        /// The set's name.
        charset: &'static str,
    },
    /// JSON is UTF-8 (RFC 8259 §8.1).
    #[error("JSON is UTF-8: `charset` cannot make it another set")]
    Json,
    /// Bytes.
    #[error("the message is bytes, which have no character set")]
    Bytes,
}

impl Body {
    /// The same in another character set: HL7 converted, with MSH-18 naming the set; XML with the set in its declaration.
    ///
    /// # Errors
    /// [`Unencodable`]; no character is ever written as another one.
    pub fn in_charset(self: &Arc<Body>, charset: Charset) -> Result<Arc<Body>, Unencodable> {
        let text = match &**self {
            Body::Hl7(message) => {
                let mut message = message.clone();
                message.transcode(charset)?;
                return Ok(Arc::new(Body::Hl7(message)));
            }
            Body::Json(_) if charset == Charset::UTF_8 => return Ok(self.clone()),
            Body::Json(_) => return Err(Unencodable::Json),
            Body::Bytes(_) | Body::Batch(_) => return Err(Unencodable::Bytes),
            Body::Encoded(encoded) => return encoded.body.in_charset(charset),
            Body::Text(text) => text.clone(),
            Body::Csv(csv) => csv.text().to_owned(),
            Body::Xml(xml) => xml.text_declared_as(charset.iana_name()),
        };
        let bytes = charset.encode(&text).map_err(|position| {
            let before: String = text.chars().take(position.saturating_sub(1)).collect();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Unencodable::Character { line, column, charset: charset.name() }
        })?;
        let bytes = Bytes::from(bytes.into_owned());
        Ok(Arc::new(Body::Encoded(Encoded { body: self.clone(), charset, bytes })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7::{Limits, Message};
    use crate::message::{Csv, Dialect, Xml};

    #[test]
    fn each_format_in_another_set_or_an_error_that_names_the_place() {
        let set = |name| Charset::named(name).expect("a set");
        let bytes = |body: Body, name| Arc::new(body).in_charset(set(name)).map(|body| body.to_bytes().to_vec());
        assert_eq!(bytes(Body::Text("é€".to_owned()), "windows-1252").expect("encoded"), b"\xe9\x80");
        assert_eq!(bytes(Body::Text("表".to_owned()), "Shift_JIS").expect("encoded"), b"\x95\x5c");
        let csv = Csv::parse("a\né\n", Dialect::default()).expect("CSV");
        assert_eq!(bytes(Body::Csv(csv), "8859/1").expect("encoded"), b"a\n\xe9\n");
        let xml = Xml::parse("<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>é</a>").expect("XML");
        let expected = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xe9</a>";
        assert_eq!(bytes(Body::Xml(xml), "8859/1").expect("encoded"), expected);
        let hl7 = Message::parse("MSH|^~\\&|é\r", &Limits::default()).expect("HL7");
        let expected = [&b"MSH|^~\\&|\xe9"[..], &b"|".repeat(15), b"8859/1\r"].concat();
        assert_eq!(bytes(Body::Hl7(hl7), "8859/1").expect("encoded"), expected);
        let error = bytes(Body::Text("secret\nsé€".to_owned()), "8859/1").expect_err("no euro");
        assert_eq!(error.to_string(), "line 2, character 3 does not exist in ISO-8859-1");
        assert_eq!(bytes(Body::Json("é".into()), "UTF-8").expect("as it is"), "\"é\"".as_bytes());
        assert_eq!(bytes(Body::Json("é".into()), "8859/1"), Err(Unencodable::Json));
        assert_eq!(bytes(Body::Bytes(Bytes::new()), "UTF-8"), Err(Unencodable::Bytes));
    }
}
