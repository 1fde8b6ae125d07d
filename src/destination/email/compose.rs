//! Writing a mail (RFC 5322, MIME), once for all attempts.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use bytes::Bytes;
use lettre::address::Envelope;
use lettre::message::header::ContentType;
use lettre::message::{Attachment as Part, Mailbox, MultiPart, SinglePart};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{Addresses, Options};
use crate::config::{load_text, parsed, report};
use crate::expr::{Escaping, ExprError, FileNameTemplate, Scope, Template};
use crate::message::Message;

/// Text that comes in base64, with or without what fills it up at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file that goes with a mail.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Attachment {
    /// The file's name, with expressions.
    name: FileNameTemplate,
    /// What is in it, with expressions. Not given: the message as it is.
    content: Option<Template>,
    /// Whether `content` comes out as base64: the file holds what it stands for (false if not given).
    #[serde(default)]
    base64: bool,
    /// Its type, as in "application/pdf".
    content_type: MediaType,
}

#[derive(Debug, Clone)]
struct MediaType(ContentType);

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MediaType, D::Error> {
        parsed(deserializer, MediaType(ContentType::TEXT_PLAIN), |text| {
            let wrong = || (format!("`{text}` is no content type"), "as in \"application/pdf\"".to_owned());
            ContentType::parse(text).map(MediaType).map_err(|_| wrong())
        })
    }
}

impl JsonSchema for MediaType {
    fn schema_name() -> Cow<'static, str> {
        "MediaType".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// HTML with expressions.
#[derive(Debug, Clone)]
pub(super) struct Html(Template);

impl<'de> Deserialize<'de> for Html {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Html, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Html(Template::compile(text.get_ref(), &text.span(), Escaping::Xml)))
    }
}

/// A template file that writes text.
#[derive(Debug, Clone)]
pub(super) struct TextFile(Template);

/// A template file that writes HTML.
#[derive(Debug, Clone)]
pub(super) struct HtmlFile(Template);

/// Reads a template file whose ending is one of these.
fn template_file<'de, D: Deserializer<'de>>(
    deserializer: D,
    endings: &[&str],
    escaping: Escaping,
) -> Result<Template, D::Error> {
    let path = Spanned::<String>::deserialize(deserializer)?;
    let ending = path.get_ref().rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    if !endings.contains(&&*ending) {
        let help = format!("its name ends in .{}", endings.join(" or ."));
        report(path.span(), format!("`{}` is no template for this", path.get_ref()), "", Some(help));
    }
    Ok(match load_text(&path.span(), path.get_ref(), "template") {
        Some(file) => Template::compile_file(&file, escaping),
        None => Template::compile("", &path.span(), escaping),
    })
}

impl<'de> Deserialize<'de> for TextFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextFile, D::Error> {
        template_file(deserializer, &["txt"], Escaping::None).map(TextFile)
    }
}

impl<'de> Deserialize<'de> for HtmlFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HtmlFile, D::Error> {
        template_file(deserializer, &["html", "htm"], Escaping::Xml).map(HtmlFile)
    }
}

macro_rules! described_string {
    ($type:ident, $description:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}

described_string!(Html, "HTML with expressions; values are escaped.");
described_string!(TextFile, "A template file, its path from the channel file; its name ends in .txt.");
described_string!(HtmlFile, "A template file, its path from the channel file; its name ends in .html.");

/// A mail that is written.
pub(super) struct Written {
    /// All of it but the Message-ID.
    pub(super) content: Bytes,
    /// The sender's address.
    pub(super) sender: String,
    /// The addresses of all who get it, each once.
    pub(super) recipients: Vec<String>,
}

fn wrong(place: &str, message: impl Into<String>) -> ExprError {
    ExprError { place: place.to_owned(), message: message.into() }
}

/// Writes the mail for a message.
pub(super) fn mail(options: &Options, message: &Message, scope: &Scope) -> Result<Written, ExprError> {
    let from = options.from.render_one(scope)?;
    let each = |list: &[Addresses]| -> Result<Vec<Mailbox>, ExprError> {
        let found: Result<Vec<Vec<Mailbox>>, ExprError> = list.iter().map(|entry| entry.render(scope)).collect();
        Ok(found?.into_iter().flatten().collect())
    };
    let (to, cc, bcc) = (each(options.to.get_ref())?, each(&options.cc)?, each(&options.bcc)?);
    let mut recipients: Vec<String> = Vec::new();
    for address in [&to, &cc, &bcc].into_iter().flatten().map(|mailbox| mailbox.email.to_string()) {
        if !recipients.contains(&address) {
            recipients.push(address);
        }
    }
    if to.is_empty() {
        return Err(wrong("email", "`to` comes out empty: nobody would get this mail"));
    }
    // A line break in a value is a space: a header is one line.
    let subject: String =
        options.subject.render(scope)?.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let seconds = u64::try_from(message.meta.received_at.as_second()).unwrap_or_default();
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let none = Envelope::new(None, vec![from.email.clone()]).map_err(|error| wrong("email", error.to_string()))?;
    let mut mail = lettre::Message::builder().envelope(none).date(date).from(from.clone()).subject(subject);
    if let Some(reply_to) = &options.reply_to {
        mail = mail.reply_to(reply_to.render_one(scope)?);
    }
    let mail = to.into_iter().fold(mail, |mail, mailbox| mail.to(mailbox));
    let mail = cc.into_iter().fold(mail, |mail, mailbox| mail.cc(mailbox));
    let content = content(options, message, scope)?;
    let mail = match content {
        Content::One(part) => mail.singlepart(part),
        Content::Several(part) => mail.multipart(part),
    };
    let mail = mail.map_err(|error| wrong("email", error.to_string()))?;
    let content = mail.formatted();
    let limit = options.max_size.bytes();
    if content.len() > limit {
        let message = format!("the mail has {} bytes, and `max_size` allows {limit}", content.len());
        return Err(wrong("email", message));
    }
    Ok(Written { content: Bytes::from(content), sender: from.email.to_string(), recipients })
}

enum Content {
    One(SinglePart),
    Several(MultiPart),
}

fn content(options: &Options, message: &Message, scope: &Scope) -> Result<Content, ExprError> {
    let text = options.text.as_ref().or(options.text_template.as_ref().map(|file| &file.0));
    let html = options.html.as_ref().map(|html| &html.0).or(options.html_template.as_ref().map(|file| &file.0));
    let render = |template: Option<&Template>| template.map(|template| template.render(scope)).transpose();
    let body = match (render(text)?.map(SinglePart::plain), render(html)?.map(SinglePart::html)) {
        (Some(text), Some(html)) => {
            let both = MultiPart::alternative().boundary(boundary(message, "text"));
            Content::Several(both.singlepart(text).singlepart(html))
        }
        (Some(one), None) | (None, Some(one)) => Content::One(one),
        (None, None) => return Err(wrong("email", "the mail has no text")),
    };
    if options.attachment.is_empty() {
        return Ok(body);
    }
    let whole = MultiPart::mixed().boundary(boundary(message, "mail"));
    let mut whole = match body {
        Content::One(part) => whole.singlepart(part),
        Content::Several(part) => whole.multipart(part),
    };
    for attachment in &options.attachment {
        whole = whole.singlepart(attachment.write(message, scope)?);
    }
    Ok(Content::Several(whole))
}

/// The same for the same message. What stands between boundaries never holds one: they contain `=_`, which neither base64 nor
/// quoted-printable does (RFC 2045 §6.7), and where text goes as it is, nobody who sent a message knew the id that it would get.
fn boundary(message: &Message, which: &str) -> String {
    format!("=_{which}-{}", message.meta.id)
}

impl Attachment {
    fn write(&self, message: &Message, scope: &Scope) -> Result<SinglePart, ExprError> {
        let name = self.name.render(scope)?;
        let content = match &self.content {
            None => message.body.to_bytes().to_vec(),
            Some(template) => {
                let text = template.render(scope)?;
                let place = template.place();
                let content = if self.base64 {
                    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
                    BASE64.decode(text).map_err(|_| wrong(place, "the content of an attachment is not base64"))?
                } else {
                    text.into_bytes()
                };
                if content.is_empty() {
                    return Err(wrong(place, "the content of an attachment comes out empty"));
                }
                content
            }
        };
        // Always in base64: what is not text must come out as it went in, and a boundary must not stand in it.
        let encoded =
            lettre::message::Body::new_with_encoding(content, lettre::message::header::ContentTransferEncoding::Base64);
        let encoded = encoded.map_err(|_| wrong("email", "an attachment cannot be encoded"))?;
        Ok(Part::new(name).body(encoded, self.content_type.0.clone()))
    }
}
