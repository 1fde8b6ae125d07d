//! How much an expression may hold. Chains (`a or b or …`, `.a.a…`, `|f|f…`, `elif` after `elif`) become trees as deep as they are
//! long, which the parser, the checks and the compiler walk by recursion: without these limits one channel file could end the
//! process by a stack overflow, which nothing can catch. They are counted in the tokens, before anything is parsed.

use std::ops::Range;

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// Bytes of one expression.
pub(super) const EXPRESSION_MAX_BYTES: usize = 16 * 1024;
/// Operators, dots, brackets and filters of one expression or tag.
pub(super) const OPERATORS_MAX: usize = 200;
/// Brackets that are open at once.
pub(super) const BRACKETS_MAX: usize = 32;
/// Blocks that are open at once; each `elif` is one within the `if` before it.
pub(super) const BLOCKS_MAX: usize = 64;

/// What is too much, and where.
pub(super) struct TooMuch {
    /// Where the limit is passed.
    pub place: Range<usize>,
    /// What it is.
    pub message: String,
    /// What to do instead.
    pub help: &'static str,
}

/// Finds what is too much in a single expression.
pub(super) fn of_expression(text: &str) -> Option<TooMuch> {
    if text.len() > EXPRESSION_MAX_BYTES {
        let message = format!("this expression has {} bytes, at most {EXPRESSION_MAX_BYTES} are possible", text.len());
        return Some(TooMuch { place: 0..text.len(), message, help: "a table and `lookup` hold long lists" });
    }
    count(text, true, SyntaxConfig::default())
}

/// Finds what is too much in a template.
pub(super) fn of_template(text: &str, syntax: SyntaxConfig) -> Option<TooMuch> {
    count(text, false, syntax)
}

fn count(text: &str, is_expression: bool, syntax: SyntaxConfig) -> Option<TooMuch> {
    let (mut operators, mut brackets) = (0, 0_usize);
    let mut blocks = Blocks::default();
    // A text that is no token is the parser's to report; it reads no further either.
    for (token, span) in tokenize(text, is_expression, syntax).map_while(Result::ok) {
        match &token {
            Token::VariableStart | Token::BlockStart => (operators, brackets) = (0, 0),
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen => brackets += 1,
            Token::BracketClose | Token::ParenClose | Token::BraceClose => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        blocks.pass(&token, brackets);
        operators += usize::from(deepens(&token));
        let (message, help) = if operators > OPERATORS_MAX {
            let help = "a table and `lookup`, or several steps, say the same in less";
            (format!("this expression has more than {OPERATORS_MAX} operators"), help)
        } else if brackets > BRACKETS_MAX {
            (format!("more than {BRACKETS_MAX} brackets are open here"), "`set` gives a part of it a name")
        } else if blocks.open.iter().sum::<usize>() > BLOCKS_MAX {
            let message = format!("more than {BLOCKS_MAX} blocks are open here, each `elif` counted as one");
            (message, "a table and `lookup` say the same in less")
        } else {
            continue;
        };
        return Some(TooMuch { place: span.start_offset as usize..span.end_offset as usize, message, help });
    }
    None
}

/// The blocks that are open at a place of a template, each with one for every `elif` that it has had: those nest too.
#[derive(Default)]
struct Blocks {
    open: Vec<usize>,
    /// The next token is a tag's name.
    begins: bool,
    /// The tag is a `set` without `=` so far, which opens a block.
    sets: bool,
}

impl Blocks {
    fn pass(&mut self, token: &Token<'_>, brackets: usize) {
        match token {
            Token::Ident("set") if self.begins => self.sets = true,
            Token::Ident("elif") if self.begins => self.open.iter_mut().last().into_iter().for_each(|open| *open += 1),
            Token::Ident("if" | "for" | "with" | "macro" | "filter" | "call" | "autoescape" | "block")
                if self.begins =>
            {
                self.open.push(1);
            }
            Token::Ident(word) if self.begins && word.starts_with("end") => drop(self.open.pop()),
            Token::Assign if brackets == 0 => self.sets = false,
            Token::BlockEnd if std::mem::take(&mut self.sets) => self.open.push(1),
            _ => {}
        }
        self.begins = matches!(token, Token::BlockStart);
    }
}

/// Whether a token can make the tree one deeper. Items of a list do not.
fn deepens(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(word) => matches!(*word, "or" | "and" | "not" | "is" | "in" | "if" | "else"),
        Token::TemplateData(_)
        | Token::VariableStart
        | Token::VariableEnd
        | Token::BlockStart
        | Token::BlockEnd
        | Token::Str(_)
        | Token::String(_)
        | Token::Int(_)
        | Token::Int128(_)
        | Token::Float(_)
        | Token::Comma
        | Token::Colon
        | Token::Assign
        | Token::BracketClose
        | Token::ParenClose
        | Token::BraceClose => false,
        _ => true,
    }
}
