//! `email`: sends each message as a mail, over SMTP (RFC 5321).
//!
//! Design constraints:
//! - The mail is written once, when it is prepared: every attempt sends the same bytes. Its Message-ID is made of the message's id
//!   and the destination's name, so that a mail that comes a second time (the connection broke before the server said that it has
//!   it) can be known as the same.
//! - All recipients or none: where the server refuses one of them, nobody gets the mail.
//! - What a message puts into a header cannot end it: addresses are checked letter by letter, names and subjects are encoded.

mod address;
mod compose;
mod smtp;

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use self::address::Addresses;
use self::compose::{Attachment, Html, HtmlFile, TextFile};
use self::smtp::{Envelope, Login, Server};
use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, ByteSize, Duration, HostPort, Mistake, Place, Secret, Table, report, time_limit};
use crate::expr::{ExprError, Scope, Template};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::tls::ClientTls;

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "email",
    summary: "Sends each message as a mail over SMTP, with attachments.",
    example: "type = \"email\"\nserver = \"smtp.lab.example:587\"\nuser = \"labwire\"\npassword = { env = \"SMTP_PASSWORD\" }\n\
              from = \"Laboratory <reports@lab.example>\"\nto = [\"ward@hospital.example\"]\nsubject = \"Report\"\n\
              text = \"The report is attached.\"\n",
    schema: |generator| generator.subschema_for::<Options>(),
    faults: &[
        "refused",
        "reset",
        "timeout",
        "dns",
        "tls",
        "authentication",
        "protocol",
        "temporary",
        "permanent",
        "content",
        "configuration",
    ],
    parse,
};

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Encryption {
    /// From the command STARTTLS on; usual on port 587.
    #[default]
    Starttls,
    /// From the first byte on; usual on port 465.
    Implicit,
    /// Not at all.
    None,
}

/// The options of an `email` destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The mail server: "smtp.lab.example:587".
    server: HostPort,
    /// How the connection is encrypted ("starttls" if not given): a server that does not offer it gets no mail. "none" is in the
    /// clear, and mails are content.
    #[schemars(with = "Option<Encryption>")]
    tls: Option<Spanned<Encryption>>,
    /// Whom to trust, and what we show, with the keys that `tls` has elsewhere: `ca`, `cert`, `key`, `server_name`, `pin`. Without
    /// it, the authorities that this system knows.
    #[schemars(with = "Option<ClientTls>")]
    trust: Option<Spanned<ClientTls>>,
    /// The login.
    #[schemars(with = "Option<String>")]
    user: Option<Spanned<String>>,
    /// Its password.
    #[schemars(with = "Option<Secret>")]
    password: Option<Spanned<Secret>>,
    /// What we call ourselves to the server: a host name. Not given: the address of this end of the connection.
    #[schemars(with = "Option<String>")]
    hello: Option<Spanned<String>>,
    /// Who sends: "Laboratory <reports@lab.example>".
    from: Addresses,
    /// Who gets it. Each may hold expressions, and several addresses with commas between; one that comes out empty is left out.
    #[schemars(with = "Vec<Addresses>")]
    to: Spanned<Vec<Addresses>>,
    /// Who gets a copy.
    #[serde(default)]
    cc: Vec<Addresses>,
    /// Who gets a copy that the others do not know of.
    #[serde(default)]
    bcc: Vec<Addresses>,
    /// Where answers go, if not to `from`.
    reply_to: Option<Addresses>,
    /// The subject, with expressions. It is not encrypted on its way through the servers of others: no names.
    subject: Template,
    /// The text, with expressions.
    text: Option<Template>,
    /// A template file for the text instead.
    text_template: Option<TextFile>,
    /// The same as HTML, with expressions; values are escaped for it. Beside `text`, the reader chooses.
    html: Option<Html>,
    /// A template file for the HTML instead.
    html_template: Option<HtmlFile>,
    /// Files that go with it: [[destination.NAME.attachment]], once for each.
    #[serde(default)]
    attachment: Vec<Attachment>,
    /// No connection within this time is a failed attempt (10s if not given).
    #[serde(default = "default_connect_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    connect_timeout: Duration,
    /// No answer to a command within this time is a failed attempt (60s if not given); to the mail itself, ten times this.
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    timeout: Duration,
    /// A larger mail is not sent: its message has an error (25MiB if not given). Attachments grow by a third on their way.
    #[serde(default = "default_max_size")]
    max_size: ByteSize,
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(60)
}

fn default_max_size() -> ByteSize {
    ByteSize::from_mib(25)
}

fn parse(table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let (name, span) = (table.name().to_owned(), table.span());
    let options = table.read_with_more::<Options>(super::COMMON_KEYS)?;
    let help = |text: &str| Some(text.to_owned());
    match (&options.user, &options.password) {
        (Some(user), None) => report(user.span(), "`user` without `password`", "", help("give the password, too")),
        (None, Some(password)) => report(password.span(), "`password` without `user`", "", help("give the login, too")),
        _ => {}
    }
    let clear = options.tls.as_ref().filter(|tls| *tls.get_ref() == Encryption::None);
    if let (Some(clear), Some(_)) = (clear, &options.password) {
        let label = "everybody on the way could read it";
        let text = "write \"starttls\" or \"implicit\", or leave `user` and `password` out";
        report(clear.span(), "a password in the clear", label, help(text));
    }
    if let (Some(_), Some(trust)) = (clear, &options.trust) {
        report(trust.span(), "`trust` without TLS", "nobody is asked for a certificate", help("leave it out"));
    }
    if options.to.get_ref().is_empty() {
        report(options.to.span(), "nobody gets this mail", "", help("write `to = [\"ward@hospital.example\"]`"));
    }
    if options.text.is_some() && options.text_template.is_some() {
        report(span.clone(), format!("{name} has both `text` and `text_template`"), "", help("keep one of them"));
    }
    if options.html.is_some() && options.html_template.is_some() {
        report(span.clone(), format!("{name} has both `html` and `html_template`"), "", help("keep one of them"));
    }
    let has_text = options.text.is_some() || options.text_template.is_some();
    if !has_text && options.html.is_none() && options.html_template.is_none() {
        report(
            span,
            format!("{name} has neither `text` nor `html`"),
            "",
            help("write `text = \"The report is attached.\"`"),
        );
    }
    let is_host =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if let Some(hello) = options.hello.as_ref().filter(|hello| !is_host(hello.get_ref())) {
        report(
            hello.span(),
            format!("`{}` is no host name", hello.get_ref()),
            "",
            help("as in \"labwire.lab.example\""),
        );
    }
    Some(Box::new(options))
}

impl Options {
    fn tls(&self) -> Encryption {
        self.tls.as_ref().map(|tls| *tls.get_ref()).unwrap_or_default()
    }
}

#[async_trait]
impl DestinationConfig for Options {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let scope = Scope::new(message);
        let mail = compose::mail(self, message, &scope)?;
        let recipients = serde_json::json!(mail.recipients).to_string();
        let properties = [("id", message.meta.id.to_string()), ("from", mail.sender), ("recipients", recipients)];
        let properties = properties.map(|(key, value)| (key.to_owned(), value));
        Ok(Outgoing { content: mail.content, properties: BTreeMap::from(properties) })
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.trust.as_ref().map_or_else(Vec::new, |trust| trust.get_ref().mistakes())
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.trust.as_ref().map_or_else(Vec::new, |trust| trust.get_ref().warnings(now))
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let trust = match &self.trust {
            Some(trust) if trust.get_ref().is_on() => trust.get_ref().clone(),
            _ => ClientTls::usual(),
        };
        let login = match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                Some(Login { user: user.get_ref().clone(), password: password.get_ref().fetch()? })
            }
            _ => None,
        };
        let server = Server {
            at: self.server.clone(),
            encryption: self.tls(),
            tls: if self.tls() == Encryption::None { None } else { trust.build(place)? },
            login,
            hello: self.hello.as_ref().map(|hello| hello.get_ref().clone()),
            connect_timeout: self.connect_timeout.get(),
            timeout: self.timeout.get(),
        };
        Ok(Box::new(Sender { server, destination: place.name.clone() }))
    }
}

struct Sender {
    server: Server,
    destination: String,
}

#[async_trait]
impl Destination for Sender {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let Some((envelope, header)) = self.envelope(outgoing) else {
            let error = "this delivery was queued for a destination of another kind: reprocess its message";
            return Err(SendError::new(FaultClass::Content, error));
        };
        let response = self.server.send(&envelope, header.as_bytes(), &outgoing.content).await?;
        Ok(Delivered { response: Some(Bytes::from(response)) })
    }
}

impl Sender {
    /// Who gets it, and the header that is this destination's own: the Message-ID, the same at every attempt.
    fn envelope(&self, outgoing: &Outgoing) -> Option<(Envelope, String)> {
        let property = |key: &str| outgoing.properties.get(key).map(String::as_str);
        let (id, from) = (property("id")?, property("from")?.to_owned());
        let to: Vec<String> = serde_json::from_str(property("recipients")?).ok()?;
        // A name may hold dots where an id may not (RFC 5322 §3.2.3).
        let destination = self.destination.replace('.', "_");
        let domain = from.rsplit_once('@')?.1;
        let header = format!("Message-ID: <{id}.{destination}@{domain}>\r\n");
        Some((Envelope { from, to }, header))
    }
}
