//! The flat index of a message: one list of segments, one list of field separators, filled in a single pass.

use super::error::ParseError;
use super::limits::Limits;
use super::marks::Marks;
use super::segment::SegmentRef;
use super::separators::Separators;
use super::walk;

/// One segment of the index.
#[derive(Clone)]
pub(super) struct Segment {
    /// The name packed into a number; 0 where it has not three characters.
    pub(super) key: u32,
    pub(super) body: Body,
}

#[derive(Clone)]
pub(super) enum Body {
    /// Untouched: places in the message as it came.
    Original(Span),
    /// Edited or inserted: bytes of its own.
    Owned(Box<Owned>),
}

/// Where a segment stands in the original bytes.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
    /// Behind the terminator and blank lines that follow.
    pub(super) after: u32,
    first_field: u32,
    fields: u32,
}

#[derive(Clone)]
pub(super) struct Owned {
    /// The segment and its terminator.
    pub(super) bytes: Vec<u8>,
    /// Where the terminator begins.
    pub(super) end: usize,
    pub(super) fields: Vec<u32>,
}

impl Owned {
    pub(super) fn new(segment: &[u8], terminator: &[u8], field: u8) -> Owned {
        let mut owned = Owned { bytes: [segment, terminator].concat(), end: segment.len(), fields: Vec::new() };
        owned.reindex(field);
        owned
    }

    /// Looks for the separators again, in this segment only.
    pub(super) fn reindex(&mut self, field: u8) {
        self.fields.clear();
        self.fields.extend(memchr::memchr_iter(field, &self.bytes[..self.end]).map(narrow));
    }
}

/// Sizes are checked against `u32::MAX` before anything is indexed.
fn narrow(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

pub(super) fn key(name: &[u8]) -> u32 {
    match *name {
        [a, b, c] => u32::from_be_bytes([0, a, b, c]),
        _ => 0,
    }
}

/// The index of the original bytes.
#[derive(Clone, Default)]
pub(super) struct Index {
    pub(super) segments: Vec<Segment>,
    fields: Vec<u32>,
}

impl Index {
    /// Indexes `raw` from `start`, where MSH stands. Limits are checked by counting, before memory is taken.
    pub(super) fn build(
        raw: &[u8],
        start: usize,
        separators: &Separators,
        limits: &Limits,
    ) -> Result<Index, ParseError> {
        let too_many = |what, limit| Err(ParseError::Limit { what, limit });
        let max_bytes = limits.max_bytes.min(u32::MAX as usize);
        if raw.len() > max_bytes {
            return too_many("bytes", max_bytes);
        }
        let fields = memchr::memchr_iter(separators.field, raw).count();
        if fields > limits.max_fields {
            return too_many("fields", limits.max_fields);
        }
        let returns = memchr::memchr_iter(b'\r', raw).count();
        let feeds = memchr::memchr_iter(b'\n', raw).count();
        let lines = returns.max(feeds).saturating_add(1).min(limits.max_segments);
        let mut index = Index { segments: Vec::with_capacity(lines), fields: Vec::with_capacity(fields) };
        let mut line = Line { start, first_field: 0 };
        for at in Marks::new(&raw[start..], separators.field) {
            let at = start + at;
            if raw[at] == separators.field {
                index.fields.push(narrow(at));
            } else {
                index.close(raw, &mut line, at, limits)?;
            }
        }
        if line.start < raw.len() {
            index.close(raw, &mut line, raw.len(), limits)?;
        }
        index.check_repetitions(raw, separators, limits)?;
        Ok(index)
    }

    /// A line ends at `at`: a segment, or a blank one that belongs to the segment before.
    fn close(&mut self, raw: &[u8], line: &mut Line, at: usize, limits: &Limits) -> Result<(), ParseError> {
        let after = narrow((at + 1).min(raw.len()));
        let start = std::mem::replace(&mut line.start, at + 1);
        if at == start {
            if let Some(Segment { body: Body::Original(span), .. }) = self.segments.last_mut() {
                span.after = after;
            }
            return Ok(());
        }
        let first_field = std::mem::replace(&mut line.first_field, self.fields.len());
        let fields = self.fields.len() - first_field;
        if fields > limits.max_fields_per_segment {
            return Err(ParseError::Limit { what: "fields in one segment", limit: limits.max_fields_per_segment });
        }
        if self.segments.len() >= limits.max_segments {
            return Err(ParseError::Limit { what: "segments", limit: limits.max_segments });
        }
        if !self.segments.is_empty() && is_header(&raw[start..at], b"MSH") {
            return Err(ParseError::SeveralMessages { offset: start });
        }
        let name_end = self.fields.get(first_field).map_or(at, |&at| at as usize);
        self.segments.push(Segment {
            key: key(&raw[start..name_end]),
            body: Body::Original(Span {
                start: narrow(start),
                end: narrow(at),
                after,
                first_field: narrow(first_field),
                fields: narrow(fields),
            }),
        });
        Ok(())
    }

    /// Repetitions cost nothing until they are asked for, so they are counted one by one only where the whole message
    /// has suspiciously many.
    fn check_repetitions(&self, raw: &[u8], separators: &Separators, limits: &Limits) -> Result<(), ParseError> {
        let Some(repetition) = separators.repetition else { return Ok(()) };
        if memchr::memchr_iter(repetition, raw).count() < limits.max_repetitions {
            return Ok(());
        }
        let fits = |segment: &Segment| {
            let segment = self.view(raw, segment);
            (1..=segment.field_count()).all(|n| {
                let field = segment.field(narrow(n)).unwrap_or_default();
                walk::pieces(field, separators.repetition) <= limits.max_repetitions
            })
        };
        if self.segments.iter().all(fits) {
            return Ok(());
        }
        Err(ParseError::Limit { what: "repetitions", limit: limits.max_repetitions })
    }

    pub(super) fn view<'a>(&'a self, raw: &'a [u8], segment: &'a Segment) -> SegmentRef<'a> {
        match &segment.body {
            Body::Original(span) => {
                let first = span.first_field as usize;
                let fields = &self.fields[first..first + span.fields as usize];
                SegmentRef::new(&raw[span.start as usize..span.end as usize], fields, span.start)
            }
            Body::Owned(owned) => SegmentRef::new(&owned.bytes[..owned.end], &owned.fields, 0),
        }
    }
}

struct Line {
    start: usize,
    first_field: usize,
}

/// Whether `line` is the header segment `name`: the name, then something that can separate fields.
pub(super) fn is_header(line: &[u8], name: &[u8; 3]) -> bool {
    line.starts_with(name) && line.get(3).is_some_and(u8::is_ascii_punctuation)
}
