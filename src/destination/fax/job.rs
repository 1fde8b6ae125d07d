//! One fax at a vendor: handed over once, then asked after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Fax;
use super::profile::{Fate, Profile, Said, fill, fill_json};
use crate::destination::http::{AGENT, Login, describe, form_data, retry_after, without};
use crate::destination::{Delivered, Destination, FaultClass, SendError};
use crate::journal::Outgoing;
use crate::net::http::{Answer, Ask, Client};

/// The property that holds the message's id.
pub(super) const ID: &str = "message_id";
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Words of a vendor that go into an error are no longer than this.
const MAX_WORD: usize = 60;

/// How far a fax has come: journaled as the response of each attempt, and read by the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Counts the faxes: each that failed is followed by another.
    number: u32,
    /// What the vendor knows it by, beside its own id.
    reference: String,
    step: Step,
    /// The vendor's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    /// What the vendor said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// It may be there, or not.
    HandingOver,
    /// The vendor has it, and is at work.
    Sending,
    Sent,
    Failed,
}

impl Progress {
    fn begin(number: u32, id: &str, destination: &str) -> Progress {
        let reference = format!("{id}-{}-{number}", destination.replace('.', "~"));
        Progress { number, reference, step: Step::HandingOver, job: None, state: None, reason: None, pages: None }
    }

    /// Where to go on after an attempt: the same fax, or, where that one came to its end, the next.
    fn after(last: Option<Progress>, id: &str, destination: &str) -> Progress {
        match last {
            Some(last) if matches!(last.step, Step::HandingOver | Step::Sending) => last,
            Some(last) => Progress::begin(last.number.saturating_add(1), id, destination),
            None => Progress::begin(1, id, destination),
        }
    }

    fn to_bytes(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("text and numbers"))
    }
}

/// The destination at work.
pub(super) struct Sender {
    pub(super) profile: Arc<Profile>,
    /// The vendor's server, for errors.
    pub(super) server: String,
    /// The path before those of the profile.
    pub(super) base: String,
    pub(super) values: BTreeMap<String, String>,
    pub(super) destination: String,
    pub(super) poll: Duration,
    pub(super) longest: Duration,
    pub(super) client: Client,
    pub(super) login: Option<Login>,
    /// What is never kept of an answer. The longest first.
    pub(super) secrets: Vec<String>,
    /// The response of the attempt before.
    pub(super) last: Option<Bytes>,
}

#[async_trait]
impl Destination for Sender {
    fn recalls(&self) -> bool {
        true
    }

    fn recall(&mut self, response: Option<Bytes>) {
        self.last = response;
    }

    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let fax: Option<Fax> = serde_json::from_slice(&outgoing.content).ok();
        let Some((fax, id)) = fax.zip(outgoing.properties.get(ID)) else {
            let error = "this delivery was queued for a destination of another kind: reprocess its message";
            return Err(SendError::new(FaultClass::Content, error));
        };
        let last = self.last.take().and_then(|last| serde_json::from_slice(&last).ok());
        let mut progress = Progress::after(last, id, &self.destination);
        let done = self.go_on(&fax, &mut progress).await;
        // Whatever came of it, the next attempt must know how far it has come.
        let response = progress.to_bytes();
        match done {
            Ok(()) => Ok(Delivered { response: Some(response) }),
            Err(error) => Err(error.with_response(response)),
        }
    }
}

impl Sender {
    async fn go_on(&mut self, fax: &Fax, progress: &mut Progress) -> Result<(), SendError> {
        if progress.job.is_none() {
            // Nobody may know of it: who handed it over may have been killed before it was journaled.
            progress.job = self.find(fax, progress).await?;
            if progress.job.is_none() {
                progress.job = Some(self.hand_over(fax, progress).await?);
                progress.step = Step::Sending;
                return Err(self.pending("the vendor has it"));
            }
            progress.step = Step::Sending;
        }
        let said = self.ask_after(fax, progress).await?;
        (progress.state, progress.reason, progress.pages) = (said.state, said.reason, said.pages);
        let word = |word: &Option<String>| word.as_deref().map_or_else(|| "nothing".to_owned(), shown);
        let state = word(&progress.state);
        let because = progress.reason.as_ref().map_or_else(String::new, |reason| format!(", {}", shown(reason)));
        match said.fate {
            Fate::Sent => {
                progress.step = Step::Sent;
                Ok(())
            }
            Fate::Pending => Err(self.pending(&format!("the vendor says {state}"))),
            Fate::Retry => {
                progress.step = Step::Failed;
                Err(self.fail(FaultClass::Temporary, &format!("the fax did not arrive: {state}{because}")))
            }
            Fate::Failed => {
                progress.step = Step::Failed;
                Err(self.fail(FaultClass::Permanent, &format!("the fax did not arrive: {state}{because}")))
            }
            Fate::Unknown => {
                let message = format!("the profile does not know the state {state}: put it into one of its lists");
                Err(self.fail(FaultClass::Answer, &message))
            }
        }
    }

    fn fail(&self, class: FaultClass, message: &str) -> SendError {
        SendError::new(class, format!("{}: {message}", self.server))
    }

    fn pending(&self, message: &str) -> SendError {
        self.fail(FaultClass::Pending, &format!("{message}; it is not sent yet")).after(self.poll)
    }

    /// The fax with this reference, where the vendor can be asked for it and has it.
    async fn find(&mut self, fax: &Fax, progress: &Progress) -> Result<Option<String>, SendError> {
        let profile = self.profile.clone();
        let Some(find) = profile.find() else { return Ok(None) };
        let ask = self.ask(Method::GET, &find.path, &BTreeMap::new(), fax, progress)?;
        let answer = self.exchange(ask).await?;
        if answer.status.as_u16() == 404 {
            return Ok(None);
        }
        let json = self.json(&answer)?;
        Ok(find.job.text(&json))
    }

    async fn hand_over(&mut self, fax: &Fax, progress: &Progress) -> Result<String, SendError> {
        let profile = self.profile.clone();
        let submit = &profile.submit;
        let mut ask = self.ask(Method::POST, &submit.path, &submit.headers, fax, progress)?;
        let value = |name: &str| self.value(name, fax, progress);
        let (content, content_type) = if let Some(multipart) = &submit.multipart {
            let fields = multipart.fields.iter().map(|(name, text)| (name.clone(), fill(text, &value, &str::to_owned)));
            let cover = submit.cover.iter().filter(|_| fax.cover.is_some());
            let cover = cover
                .map(|(name, text)| (name.clone(), fill(text.as_str().unwrap_or_default(), &value, &str::to_owned)));
            let fields: Vec<(String, String)> = fields.chain(cover).filter(|(_, text)| !text.is_empty()).collect();
            let document = STANDARD.decode(&fax.document).map_err(|_| self.fail(FaultClass::Content, "no document"))?;
            let file = (multipart.file.as_str(), format!("{}.pdf", progress.reference), "application/pdf");
            form_data(&progress.reference, &fields, file, Bytes::from(document))
        } else {
            let mut json = submit.json.clone().unwrap_or_default();
            if fax.cover.is_some() {
                json.extend(submit.cover.clone());
            }
            let json = fill_json(&Value::Object(json), &value);
            (Bytes::from(json.to_string()), "application/json".to_owned())
        };
        let content_type = HeaderValue::from_str(&content_type);
        ask.headers.insert(CONTENT_TYPE, content_type.map_err(|_| self.fail(FaultClass::Internal, "no content type"))?);
        ask.body = content;
        // On a connection of its own: on one that was kept, a request whose answer does not come is made again.
        self.client = Client::new(self.client.route().clone());
        let answer = self.exchange(ask).await?;
        let json = self.json(&answer)?;
        submit.job.text(&json).ok_or_else(|| {
            self.fail(FaultClass::Answer, "the answer names no job: look at `job` in [submit] of the profile")
        })
    }

    async fn ask_after(&mut self, fax: &Fax, progress: &Progress) -> Result<Said, SendError> {
        let profile = self.profile.clone();
        let ask = self.ask(Method::GET, &profile.status.path, &BTreeMap::new(), fax, progress)?;
        let answer = self.exchange(ask).await?;
        Ok(profile.status.read(&self.json(&answer)?))
    }

    /// A request without content.
    fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &BTreeMap<String, String>,
        fax: &Fax,
        progress: &Progress,
    ) -> Result<Ask, SendError> {
        let unfit = |what: &str| self.fail(FaultClass::Content, &format!("{what} cannot be sent"));
        let value = |name: &str| self.value(name, fax, progress);
        let target = format!("{}{}", self.base, fill(path, &value, &encoded));
        let target = target.parse().map_err(|_| unfit("this path"))?;
        let mut all = HeaderMap::new();
        all.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        all.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, text) in headers {
            let name = HeaderName::try_from(name).map_err(|_| unfit("a header of the profile"))?;
            let text = HeaderValue::from_str(&fill(text, &value, &str::to_owned));
            all.insert(name, text.map_err(|_| unfit("a header of the profile"))?);
        }
        Ok(Ask { method, target, headers: all, body: Bytes::new() })
    }

    fn value(&self, name: &str, fax: &Fax, progress: &Progress) -> Option<String> {
        if let Some(name) = name.strip_prefix("values.") {
            return self.values.get(name).cloned();
        }
        if let Some(name) = name.strip_prefix("cover.") {
            return fax.cover.as_ref()?.get(name).cloned();
        }
        match name {
            "number" => Some(fax.number.clone()),
            "caller" => Some(fax.caller.clone()),
            "document" => Some(fax.document.clone()),
            "reference" => Some(progress.reference.clone()),
            "job" => progress.job.clone(),
            _ => None,
        }
    }

    async fn exchange(&mut self, mut ask: Ask) -> Result<Answer, SendError> {
        let mut token = None;
        match &mut self.login {
            None => {}
            Some(Login::Fixed(name, value)) => {
                ask.headers.insert(name.clone(), value.clone());
            }
            Some(Login::Token(tokens)) => {
                let (value, _) = tokens.get().await?;
                ask.headers.insert(AUTHORIZATION, value.clone());
                token = Some(value);
            }
        }
        let exchanged = self.client.exchange(&ask, self.longest, MAX_ANSWER_BYTES).await;
        let mut answer = exchanged.map_err(|fault| describe(&self.server, self.client.route(), self.longest, fault))?;
        if let (Some(Login::Token(tokens)), Some(token), 401 | 403) = (&self.login, &token, answer.status.as_u16()) {
            // Withdrawn, perhaps: the next attempt fetches another.
            tokens.forget(token).await;
        }
        let token =
            token.as_ref().and_then(|token| token.to_str().ok()).and_then(|token| token.strip_prefix("Bearer "));
        let secrets: Vec<&str> = self.secrets.iter().map(String::as_str).chain(token).collect();
        answer.body = without(answer.body, &secrets);
        Ok(answer)
    }

    /// An answer that is a success, read.
    fn json(&self, answer: &Answer) -> Result<Value, SendError> {
        let status = answer.status;
        if !status.is_success() {
            let error = self.fail(FaultClass::Status(status.as_u16()), &format!("it answered {status}"));
            return Err(match retry_after(&answer.headers) {
                Some(wait) => error.after(wait),
                None => error,
            });
        }
        serde_json::from_slice(&answer.body)
            .map_err(|_| self.fail(FaultClass::Answer, &format!("it answered {status}, but with no JSON")))
    }
}

/// A value within a path or a query (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(letter).collect()
}

/// A vendor's word, as far as it is one: whatever else it may say is no part of an error.
fn shown(text: &str) -> String {
    let is_word = text.len() <= MAX_WORD && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.: ".contains(c));
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if is_word && digits <= 4 { format!("`{text}`") } else { "something longer".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_fax_until_it_came_to_its_end() {
        let first = Progress::after(None, "ID", "to.ward");
        assert_eq!((first.number, first.reference.as_str()), (1, "ID-to~ward-1"));
        for (step, number) in [(Step::HandingOver, 1), (Step::Sending, 1), (Step::Sent, 2), (Step::Failed, 2)] {
            let last = Progress { step, job: Some("j".to_owned()), ..first.clone() };
            let next = Progress::after(Some(last), "ID", "to.ward");
            assert_eq!(next.number, number, "{step:?}");
            assert_eq!(next.job.is_some(), number == 1);
        }
    }

    #[test]
    fn values_are_encoded_in_paths_and_numbers_are_no_words() {
        assert_eq!(encoded("a/b?c=+36 ü"), "a%2Fb%3Fc%3D%2B36%20%C3%BC");
        assert_eq!(shown("receiver_busy"), "`receiver_busy`");
        assert_eq!(shown("busy: +36 1 555 0182"), "something longer");
    }
}
