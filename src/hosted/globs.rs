//! Patterns of file names.

/// A pattern: `*` stands for any characters, `?` for one. Upper and lower case of ASCII letters are the same: partners who send
/// `ORDER.HL7` mean `*.hl7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<char>);

impl Glob {
    /// A pattern; an error says what is wrong with it.
    pub fn new(text: &str) -> Result<Glob, &'static str> {
        if text.is_empty() || text.len() > 200 {
            return Err("a pattern has from 1 to 200 characters");
        }
        if text.contains(['/', '[', ']', '{', '}', '\\']) {
            return Err("a pattern is a file name in which `*` stands for anything and `?` for one character");
        }
        Ok(Glob(text.to_ascii_lowercase().chars().collect()))
    }

    /// Whether a name is like this.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (&self.0, name.to_ascii_lowercase().chars().collect::<Vec<char>>());
        let (mut at, mut from) = (0, 0);
        // Where to go on with one more character for the last `*`.
        let mut star: Option<(usize, usize)> = None;
        while from < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at + 1, from));
                    at += 1;
                }
                Some(&c) if c == '?' || c == name[from] => (at, from) = (at + 1, from + 1),
                _ => match &mut star {
                    Some((after, begin)) => {
                        *begin += 1;
                        (at, from) = (*after, *begin);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_names() {
        for (pattern, name, matches) in [
            ("*.hl7", "a.hl7", true),
            ("*.hl7", "A.HL7", true),
            ("*.hl7", ".hl7", true),
            ("*.hl7", "a.hl7.x", false),
            ("*.hl7", "a.txt", false),
            ("order-??.hl7", "order-12.hl7", true),
            ("order-??.hl7", "order-1.hl7", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxa", false),
            (".*", ".in.a", true),
            (".*", "a.b", false),
            ("*", "", true),
            ("?", "é", true),
        ] {
            assert_eq!(Glob::new(pattern).expect("a pattern").matches(name), matches, "{pattern} {name}");
        }
        let long = format!("{}b", "*a".repeat(50));
        assert!(!Glob::new(&long).expect("a pattern").matches(&"a".repeat(200)), "and it comes to an end");
        assert!(Glob::new("").is_err() && Glob::new("in/*").is_err() && Glob::new("[a-z]").is_err());
    }
}
