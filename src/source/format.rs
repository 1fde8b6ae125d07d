//! What comes in, by its source's options: how it is to be read, and what is read of it before it is journaled.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::{parsed, report};
use crate::hl7::{Charset, Limits};
use crate::message::{Body, Dialect, Format, Origin, Refs};

/// The `format` of a source: a word, or a table with the word as its `type` and with what else there is to say.
#[derive(Debug, Clone)]
pub struct FormatOption {
    format: Format,
    charset: Option<Charset>,
    dialect: Dialect,
    trailers: Trailers,
}

impl Default for FormatOption {
    fn default() -> FormatOption {
        FormatOption::of(Format::Hl7)
    }
}

/// Whether a batch that has a header must have the trailer that belongs to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Trailers {
    /// A batch without its trailer is refused: its end may be missing.
    #[default]
    Required,
    /// The standard lets them be left out.
    Optional,
}

/// The words for formats.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    Hl7,
    Json,
    Xml,
    Csv,
    Text,
    Bytes,
}

impl Word {
    fn format(self) -> Format {
        match self {
            Word::Hl7 => Format::Hl7,
            Word::Json => Format::Json,
            Word::Xml => Format::Xml,
            Word::Csv => Format::Csv,
            Word::Text => Format::Text,
            Word::Bytes => Format::Bytes,
        }
    }
}

/// A format with what else there is to say of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FormatKeys {
    /// The format: "hl7" (a message, or a batch of them), "json", "xml", "csv", "text" or "bytes" (of which nothing is read).
    #[serde(rename = "type")]
    word: Word,
    /// The character set, as in "windows-1252", "8859/2", "Shift_JIS" or "GB18030". Of HL7 it is that of messages which name none
    /// in MSH-18 and are not UTF-8; XML that names another one is read in this one. UTF-8 if not given.
    #[schemars(with = "Option<CharsetOption>")]
    charset: Option<Spanned<CharsetOption>>,
    /// What stands between two values of "csv": one character, as in ";" or "\t" (a comma if not given).
    #[schemars(with = "Option<String>")]
    delimiter: Option<Spanned<String>>,
    /// Whether the first row of "csv" names the columns (true if not given).
    #[schemars(with = "Option<bool>")]
    header: Option<Spanned<bool>>,
    /// Whether an HL7 batch with FHS or BHS must end with FTS or BTS: "required", because a batch without may have lost its end, or
    /// "optional" for senders that never write them ("required" if not given).
    #[schemars(with = "Option<Trailers>")]
    trailers: Option<Spanned<Trailers>>,
}

/// A character set by its name in HL7 table 0211, or by its common name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CharsetOption(pub Charset);

impl CharsetOption {
    fn parse(text: &str) -> Result<CharsetOption, (String, String)> {
        let help = "for example \"windows-1252\", \"8859/1\" (Western Europe), \"8859/2\" (Central Europe), \"8859/5\" (Cyrillic), \"Shift_JIS\", \"GB18030\"";
        match Charset::named(text) {
            Some(charset) if charset.is_readable() => Ok(CharsetOption(charset)),
            Some(charset) => {
                Err((format!("{charset} cannot be read, only passed through"), "leave the key out".to_owned()))
            }
            None => Err((format!("`{text}` is not a character set"), help.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for CharsetOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CharsetOption, D::Error> {
        parsed(deserializer, CharsetOption(Charset::ASCII), CharsetOption::parse)
    }
}

impl JsonSchema for CharsetOption {
    fn schema_name() -> Cow<'static, str> {
        "Charset".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl FormatOption {
    /// A format with nothing else said of it.
    pub fn of(format: Format) -> FormatOption {
        FormatOption { format, charset: None, dialect: Dialect::default(), trailers: Trailers::default() }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Notes in a message's origin what whoever reads its body later needs to know.
    pub fn note(&self, origin: &mut Origin) {
        origin.charset = self.charset.map(|charset| charset.name().into());
        origin.csv = (self.dialect != Dialect::default()).then(|| Box::new(self.dialect));
    }

    /// Reads what came in. What cannot be read is to be kept all the same, with the reason why it is rejected.
    pub fn read(&self, raw: &Bytes) -> Incoming {
        let mut origin = Origin::default();
        self.note(&mut origin);
        let read = Body::read(raw, self.format, &origin, &Limits::default()).map_err(|error| error.to_string());
        let read = read.and_then(|body| match &body {
            Body::Batch(batch) if self.trailers == Trailers::Required => match batch.missing() {
                Some(missing) => Err(format!("the batch is refused: {missing}; its end may be missing")),
                None => Ok(body),
            },
            _ => Ok(body),
        });
        match read {
            Ok(body) => Incoming { refs: Refs::of(&body), body: Some(Arc::new(body)), rejected: None },
            Err(reason) => Incoming { refs: Refs::default(), body: None, rejected: Some(reason) },
        }
    }

    fn from_keys(keys: FormatKeys) -> FormatOption {
        let format = keys.word.format();
        let only = |key: &str, span: Option<std::ops::Range<usize>>, of: &[Format]| {
            if let Some(span) = span.filter(|_| !of.contains(&format)) {
                report(span, format!("`{key}` does not go with `type = \"{}\"`", format.as_str()), "", None);
            }
        };
        let texts = [Format::Hl7, Format::Json, Format::Xml, Format::Csv, Format::Text];
        only("charset", keys.charset.as_ref().map(Spanned::span), &texts);
        only("delimiter", keys.delimiter.as_ref().map(Spanned::span), &[Format::Csv]);
        only("header", keys.header.as_ref().map(Spanned::span), &[Format::Csv]);
        only("trailers", keys.trailers.as_ref().map(Spanned::span), &[Format::Hl7]);
        let mut dialect = Dialect::default();
        if let Some(delimiter) = &keys.delimiter {
            match delimiter.get_ref().chars().collect::<Vec<char>>()[..] {
                [one] if one.is_ascii() && !matches!(one, '"' | '\r' | '\n') => dialect.delimiter = one,
                _ => {
                    let help =
                        "one ASCII character that is no quote and no line break, as in \";\" or \"\\t\"".to_owned();
                    report(delimiter.span(), "this cannot stand between values", "", Some(help));
                }
            }
        }
        dialect.header = keys.header.is_none_or(Spanned::into_inner);
        FormatOption {
            format,
            charset: keys.charset.map(|charset| charset.into_inner().0),
            dialect,
            trailers: keys.trailers.map(Spanned::into_inner).unwrap_or_default(),
        }
    }
}

/// What was read of a body before it is journaled: the fields of [`Taken`](super::Taken) that follow from it.
#[derive(Debug)]
pub struct Incoming {
    /// The body; none where it cannot be read.
    pub body: Option<Arc<Body>>,
    /// The references found in it.
    pub refs: Refs,
    /// Why it cannot be read, without content.
    pub rejected: Option<String>,
}

impl<'de> Deserialize<'de> for FormatOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FormatOption, D::Error> {
        struct WordOrTable;
        impl<'de> Visitor<'de> for WordOrTable {
            type Value = FormatOption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a format, or a table with its `type`")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<FormatOption, E> {
                Word::deserialize(serde::de::value::StrDeserializer::new(word))
                    .map(|word| FormatOption::of(word.format()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FormatOption, A::Error> {
                FormatKeys::deserialize(MapAccessDeserializer::new(map)).map(FormatOption::from_keys)
            }
        }
        deserializer.deserialize_any(WordOrTable)
    }
}

impl JsonSchema for FormatOption {
    fn schema_name() -> Cow<'static, str> {
        "Format".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (word, table) = (Word::json_schema(generator), FormatKeys::json_schema(generator));
        json_schema!({
            "description": "\"hl7\" (a message, or a batch of them), \"json\", \"xml\", \"csv\", \"text\" or \"bytes\"; or a table with more to say: { type = \"csv\", delimiter = \";\", charset = \"windows-1252\" }.",
            "anyOf": [word, table],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::diagnostic::SourceFile;

    /// Reads the option; its first mistake otherwise.
    fn option(value: &str) -> Result<FormatOption, String> {
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct Keys {
            #[serde(default)]
            format: FormatOption,
        }
        let folder = std::path::Path::new(".");
        let file = SourceFile::new(&folder.join("c.toml"), format!("format = {value}"));
        let read = config::collect(&file, folder, || {
            let table = toml::de::DeTable::parse(&file.text).expect("TOML").into_inner();
            config::Table::new(table, 0..0, "[source]").read::<Keys>()
        });
        match read.diagnostics.first() {
            Some(mistake) => Err(mistake.to_string()),
            None => Ok(read.value.expect("read").format),
        }
    }

    fn read(value: &str, raw: &[u8]) -> Result<Arc<Body>, String> {
        let read = option(value)?.read(&Bytes::copy_from_slice(raw));
        read.body.ok_or_else(|| read.rejected.expect("one or the other"))
    }

    #[test]
    fn each_key_does_what_it_says() {
        let row = |value: &str, raw: &[u8]| match &*read(value, raw)? {
            Body::Csv(csv) => Ok(format!("{:?}", csv.rows())),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(row("\"csv\"", b"a,b\n1,2\n").as_deref(), Ok("[[\"1\", \"2\"]]"));
        assert_eq!(row("{ type = \"csv\", delimiter = \";\" }", b"a;b\n1;2\n").as_deref(), Ok("[[\"1\", \"2\"]]"));
        assert_eq!(
            row("{ type = \"csv\", delimiter = \"\\t\", header = false }", b"a\tb\n").as_deref(),
            Ok("[[\"a\", \"b\"]]")
        );
        assert_eq!(row("{ type = \"csv\", charset = \"8859/2\" }", b"a\n\xf5\n").as_deref(), Ok("[[\"\u{151}\"]]"));
        let text = |value: &str, raw: &[u8]| {
            Ok::<_, String>(String::from_utf8(read(value, raw)?.to_bytes().to_vec()).expect("UTF-8"))
        };
        assert_eq!(text("{ type = \"text\", charset = \"windows-1252\" }", b"\x80").as_deref(), Ok("\u{20ac}"));
        assert_eq!(text("{ type = \"json\", charset = \"8859/5\" }", b"[\"\xb6\"]").as_deref(), Ok("[\"\u{416}\"]"));
        assert_eq!(
            text("\"xml\"", b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>").as_deref(),
            Ok("<?xml version='1.0' encoding='UTF-8'?><a>\u{e9}</a>")
        );
        assert_eq!(
            text("{ type = \"xml\", charset = \"8859/2\" }", b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xf5</a>")
                .as_deref(),
            Ok("<?xml version='1.0' encoding='UTF-8'?><a>\u{151}</a>")
        );
        assert_eq!(read("\"bytes\"", b"\xff\x00").expect("bytes").to_bytes(), &b"\xff\x00"[..]);
        let batch = b"BHS|^~\\&\rMSH|^~\\&|A\r";
        let error = read("\"hl7\"", batch).expect_err("no trailer");
        assert_eq!(error, "the batch is refused: line 1: batch trailer BTS is missing; its end may be missing");
        assert!(matches!(
            &*read("{ type = \"hl7\", trailers = \"optional\" }", batch).expect("a batch"),
            Body::Batch(_)
        ));
        let latin = b"MSH|^~\\&|A\rPID|1||||\xe9\r";
        let name = |value: &str| match &*read(value, latin).expect("HL7") {
            Body::Hl7(message) => message.text(&"PID-5".parse().expect("a path")).map(|text| text.map(Cow::into_owned)),
            other => panic!("{other:?}"),
        };
        assert!(name("\"hl7\"").is_err());
        assert_eq!(name("{ type = \"hl7\", charset = \"8859/1\" }"), Ok(Some("\u{e9}".to_owned())));
    }

    #[test]
    fn what_cannot_be_read_is_said_without_content() {
        for (format, raw, reason) in [
            ("\"hl7\"", &b"secret"[..], "message does not start with MSH"),
            ("\"json\"", b"{\"secret\"", "the body is not JSON: line 1, column 9"),
            ("\"xml\"", b"<secret>", "the body is not XML that can be read: line 1, column"),
            ("\"csv\"", b"a,b\nsecret\n", "the body is not CSV that can be read: line 2: it has 1 values"),
            ("\"text\"", b"secret\xff", "the body is not UTF-8: byte 6 does not belong"),
            ("{ type = \"text\", charset = \"ASCII\" }", b"secret\xff", "the body is not ASCII: byte 6"),
            (
                "\"xml\"",
                b"<?xml version='1.0' encoding='klingon'?><a/>",
                "the encoding that the XML declaration names is not known",
            ),
        ] {
            let error = read(format, raw).expect_err(format);
            assert!(error.starts_with(reason) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn mistakes_in_the_channel_file() {
        for (value, problem) in [
            ("\"hl8\"", "hl8"),
            ("{ charset = \"UTF-8\" }", "type"),
            ("{ type = \"csv\", charset = \"klingon\" }", "`klingon` is not a character set"),
            ("{ type = \"csv\", delimiter = \"ab\" }", "this cannot stand between values"),
            ("{ type = \"json\", delimiter = \";\" }", "`delimiter` does not go with `type = \"json\"`"),
            ("{ type = \"text\", header = true }", "`header` does not go with"),
            ("{ type = \"csv\", trailers = \"optional\" }", "`trailers` does not go with"),
            ("{ type = \"bytes\", charset = \"UTF-8\" }", "`charset` does not go with"),
            ("{ type = \"csv\", delimitre = \";\" }", "delimitre"),
        ] {
            let error = option(value).expect_err(value);
            assert!(error.contains(problem), "{value}: {error}");
        }
    }
}
