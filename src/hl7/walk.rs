//! Splitting a field on demand. Nothing here allocates, except padding for places that do not exist yet.

use std::ops::Range;

use super::limits::Limits;
use super::path::Path;
use super::separators::Separators;

/// The `n`th (1-based) piece of `whole` between separators. Without a separator there is one piece.
pub(super) fn piece(whole: &[u8], separator: Option<u8>, n: u32) -> Option<Range<usize>> {
    let skip = (n as usize).checked_sub(1)?;
    let Some(separator) = separator else {
        return (skip == 0).then_some(0..whole.len());
    };
    let mut ends = memchr::memchr_iter(separator, whole);
    let start = if skip == 0 { 0 } else { ends.nth(skip - 1)? + 1 };
    Some(start..ends.next().unwrap_or(whole.len()))
}

/// How many pieces `whole` has; an empty one still has one.
pub(super) fn pieces(whole: &[u8], separator: Option<u8>) -> usize {
    separator.map_or(1, |separator| memchr::memchr_iter(separator, whole).count() + 1)
}

/// The steps from a field down to where the path ends: separator and 1-based number of each level.
fn steps(path: &Path, separators: &Separators) -> impl Iterator<Item = (Option<u8>, u32)> {
    let repetition = path.repetition().or(path.component().map(|_| 1));
    [
        repetition.map(|n| (separators.repetition, n)),
        path.component().map(|n| (Some(separators.component), n)),
        path.subcomponent().map(|n| (separators.subcomponent, n)),
    ]
    .into_iter()
    .flatten()
}

/// Where in `field` the value stands that `path` names; `None` where there is no such piece.
pub(super) fn locate(field: &[u8], path: &Path, separators: &Separators) -> Option<Range<usize>> {
    let mut at = 0..field.len();
    for (separator, n) in steps(path, separators) {
        let inner = piece(&field[at.clone()], separator, n)?;
        at = at.start + inner.start..at.start + inner.end;
    }
    Some(at)
}

/// Whether the value at `path` holds further levels, so that it cannot be unescaped as one.
pub(super) fn composite(value: &[u8], path: &Path, separators: &Separators) -> bool {
    let has = |separator: Option<u8>| separator.is_some_and(|byte| memchr::memchr(byte, value).is_some());
    let in_component = path.component().is_some();
    let in_repetition = in_component || path.repetition().is_some();
    (path.subcomponent().is_none() && has(separators.subcomponent))
        || (!in_component && has(Some(separators.component)))
        || (!in_repetition && has(separators.repetition))
}

/// Where a value goes: `range` is replaced by `padding` and the value.
pub(super) struct Slot {
    pub(super) range: Range<usize>,
    pub(super) padding: Vec<u8>,
}

/// Why there is no slot.
pub(super) enum NoSlot {
    /// The message declares no separator for a level that would be needed.
    Separator,
    /// The place lies beyond a limit.
    Limit(&'static str, usize),
}

impl Slot {
    /// The slot of `path` in `field`, padded where pieces are missing.
    pub(super) fn find(field: &[u8], path: &Path, separators: &Separators, limits: &Limits) -> Result<Slot, NoSlot> {
        let repetition = path.repetition().unwrap_or(1) as usize;
        if repetition > limits.max_repetitions {
            return Err(NoSlot::Limit("repetitions", limits.max_repetitions));
        }
        let deepest = path.component().unwrap_or(1).max(path.subcomponent().unwrap_or(1)) as usize;
        if deepest > limits.max_components {
            return Err(NoSlot::Limit("components", limits.max_components));
        }
        let mut slot = Slot { range: 0..field.len(), padding: Vec::new() };
        for (separator, n) in steps(path, separators) {
            let whole = &field[slot.range.clone()];
            if let Some(inner) = piece(whole, separator, n) {
                slot.range = slot.range.start + inner.start..slot.range.start + inner.end;
                continue;
            }
            let separator = separator.ok_or(NoSlot::Separator)?;
            let missing = n as usize - pieces(whole, Some(separator));
            slot.padding.resize(slot.padding.len() + missing, separator);
            slot.range = slot.range.end..slot.range.end;
        }
        Ok(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn located() {
        let separators = Separators::default();
        for (field, path, value) in [
            ("A^B~C^D&E", "PID-3", Some("A^B~C^D&E")),
            ("A^B~C^D&E", "PID-3[1]", Some("A^B")),
            ("A^B~C^D&E", "PID-3[2]", Some("C^D&E")),
            ("A^B~C^D&E", "PID-3[3]", None),
            ("A^B~C^D&E", "PID-3.2", Some("B")),
            ("A^B~C^D&E", "PID-3[2].2", Some("D&E")),
            ("A^B~C^D&E", "PID-3[2].2.2", Some("E")),
            ("A^B~C^D&E", "PID-3[2].2.3", None),
            ("A", "PID-3.1.1", Some("A")),
            ("A", "PID-3.2", None),
            ("", "PID-3.1.1", Some("")),
            ("", "PID-3[2]", None),
            ("This~Is~~~~", "OBX-5[6]", Some("")),
            ("This~Is~~~~", "OBX-5[7]", None),
            ("~Repeat2", "OBX-5[1]", Some("")),
            ("~Repeat2", "OBX-5[2]", Some("Repeat2")),
        ] {
            let path: Path = path.parse().unwrap();
            let got = locate(field.as_bytes(), &path, &separators).map(|range| &field[range]);
            assert_eq!(got, value, "{path} of {field}");
        }
    }

    #[test]
    fn padded() {
        let (separators, limits) = (Separators::default(), Limits::default());
        for (field, path, after) in [
            ("A", "PID-3", "!"),
            ("A", "PID-3[1]", "!"),
            ("A", "PID-3[3]", "A~~!"),
            ("A", "PID-3.4", "A^^^!"),
            ("A", "PID-3.1.2", "A&!"),
            ("A^B", "PID-3.1.2", "A&!^B"),
            ("A^B~C", "PID-3.3", "A^B^!~C"),
            ("A^B~C", "PID-3[3].2.2", "A^B~C~^&!"),
            ("", "PID-3.2.2", "^&!"),
        ] {
            let path: Path = path.parse().unwrap();
            let Ok(slot) = Slot::find(field.as_bytes(), &path, &separators, &limits) else { panic!("{path}") };
            let padding = String::from_utf8(slot.padding).unwrap();
            let got = format!("{}{padding}!{}", &field[..slot.range.start], &field[slot.range.end..]);
            assert_eq!(got, after, "{path} of {field}");
        }
    }
}
