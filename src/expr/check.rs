//! What can be known of an expression before any message came: syntax, names, HL7 paths, tables.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Stmt};
use minijinja::machinery::{Span, parse, parse_expr};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::arguments::{self, Wrong};
use super::cost::{self, TooMuch};
use super::scope::META;
use super::view::METHODS;
use super::{ENVIRONMENT, Escaping};
use crate::config;
use crate::diagnostic::{SourceFile, did_you_mean};
use crate::hl7;
use crate::lookup_table::LookupTable;

/// Where the text stands whose mistakes are reported.
pub(super) enum At<'a> {
    /// A string value of the channel file.
    Value {
        /// The value's place.
        span: &'a Range<usize>,
        /// The value.
        text: &'a str,
    },
    /// A string value of the channel file that is about an answer.
    Answer {
        /// The value's place.
        span: &'a Range<usize>,
        /// The value.
        text: &'a str,
    },
    /// A file that the channel file names.
    File(&'a Arc<SourceFile>),
}

impl At<'_> {
    fn report(&self, within: Range<usize>, message: String, label: String, help: Option<String>) {
        match self {
            At::Value { span, text } | At::Answer { span, text } => {
                config::report(config::text_place(span, text, within), message, label, help)
            }
            At::File(file) => {
                let label = help.map_or(label.clone(), |help| if label.is_empty() { help } else { label });
                config::report_in(file, within, message, label);
            }
        }
    }
}

/// Variables that every expression sees; the last only where it is about an answer.
const VARIABLES: &[&str] = &["msg", "meta", "event", "each", "answer"];
/// Variables that Jinja itself makes.
const JINJA_VARIABLES: &[&str] = &["loop", "self", "super", "caller", "varargs", "kwargs", "true", "false", "none"];
/// Filters worth suggesting for a mistyped one.
pub(super) const FILTERS: &[&str] = &[
    "abs",
    "base64",
    "base64_decode",
    "batch",
    "bool",
    "capitalize",
    "date",
    "default",
    "dictsort",
    "digits",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "hl7_ts",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lookup",
    "lower",
    "map",
    "max",
    "min",
    "pad",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sha256",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// Filters whose result is a number or text.
const SCALAR_FILTERS: &[&str] = &[
    "base64",
    "base64_decode",
    "bool",
    "capitalize",
    "date",
    "digits",
    "float",
    "hl7_ts",
    "int",
    "join",
    "length",
    "lookup",
    "lower",
    "pad",
    "replace",
    "sha256",
    "string",
    "title",
    "tojson",
    "trim",
    "upper",
];

/// Block tags on lines of their own leave no blank lines behind. In HL7 a line break ends a segment, so there a tag eats none:
/// the template step drops blank lines anyway.
pub(super) fn syntax(escaping: &Escaping) -> SyntaxConfig {
    let trim = !matches!(escaping, Escaping::Hl7(_));
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(trim).lstrip_blocks(trim).build().expect("the delimiters are Jinja's own")
}

pub(super) fn expression(text: &str, at: &At<'_>, tables: &mut BTreeMap<String, LookupTable>) -> bool {
    if let Some(too_much) = cost::of_expression(text) {
        return refuse(too_much, at);
    }
    match parse_expr(text) {
        Ok(parsed) => {
            let mut walk = Walk { at, tables, escaping: &Escaping::None, assigned: HashSet::new(), clean: true };
            walk.expr(&parsed);
            walk.clean
        }
        Err(error) => syntax_error(&error, text, at),
    }
}

pub(super) fn template(
    text: &str,
    escaping: &Escaping,
    at: &At<'_>,
    tables: &mut BTreeMap<String, LookupTable>,
) -> bool {
    if let Some(too_much) = cost::of_template(text, syntax(escaping)) {
        return refuse(too_much, at);
    }
    match parse(text, "template", syntax(escaping)) {
        Ok(parsed) => {
            let mut walk = Walk { at, tables, escaping, assigned: HashSet::new(), clean: true };
            walk.assigned_in(&parsed);
            walk.stmt(&parsed);
            walk.clean
        }
        Err(error) => syntax_error(&error, text, at),
    }
}

fn refuse(too_much: TooMuch, at: &At<'_>) -> bool {
    at.report(too_much.place, too_much.message, String::new(), Some(too_much.help.to_owned()));
    false
}

fn syntax_error(error: &Error, text: &str, at: &At<'_>) -> bool {
    let end = text.trim_end().len();
    let place = error.range().filter(|range| range.start <= text.len()).unwrap_or(0..end);
    let label = error.detail().unwrap_or("cannot be understood").to_owned();
    let help = "expressions are Jinja: msg['PID-5.1'] == 'X' and event.data.total > 0".to_owned();
    at.report(place, "syntax error in an expression".to_owned(), label, Some(help));
    false
}

struct Walk<'a, 'b> {
    at: &'a At<'b>,
    tables: &'a mut BTreeMap<String, LookupTable>,
    escaping: &'a Escaping,
    assigned: HashSet<String>,
    clean: bool,
}

fn range(span: Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

impl Walk<'_, '_> {
    fn report(&mut self, span: Span, message: String, label: String, help: Option<String>) {
        self.clean = false;
        self.at.report(range(span), message, label, help);
    }

    /// Names that the template itself gives a value, anywhere in it.
    fn assigned_in(&mut self, stmt: &Stmt<'_>) {
        match stmt {
            Stmt::ForLoop(node) => self.target(&node.target),
            Stmt::Set(node) => self.target(&node.target),
            Stmt::SetBlock(node) => self.target(&node.target),
            Stmt::WithBlock(node) => node.assignments.iter().for_each(|(target, _)| self.target(target)),
            Stmt::Macro(node) => {
                self.assigned.insert(node.name.to_owned());
                node.args.iter().for_each(|argument| self.target(argument));
            }
            _ => {}
        }
        for child in children(stmt) {
            self.assigned_in(child);
        }
    }

    fn target(&mut self, target: &Expr<'_>) {
        match target {
            Expr::Var(var) => {
                self.assigned.insert(var.id.to_owned());
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.target(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.target(item)),
            _ => {}
        }
    }

    fn stmt(&mut self, stmt: &Stmt<'_>) {
        match stmt {
            Stmt::EmitExpr(node) => self.expr(&node.expr),
            Stmt::ForLoop(node) => {
                self.expr(&node.iter);
                node.filter_expr.iter().for_each(|expr| self.expr(expr));
            }
            Stmt::IfCond(node) => self.expr(&node.expr),
            Stmt::WithBlock(node) => node.assignments.iter().for_each(|(_, value)| self.expr(value)),
            Stmt::Set(node) => {
                self.expr(&node.expr);
                if matches!(node.target, Expr::GetAttr(_)) && !is_scalar(&node.expr) {
                    let help = "write `+ 1`, `~`, or a filter such as `| int` or `| string` at the end".to_owned();
                    let message = "a namespace takes numbers and text".to_owned();
                    self.report(node.expr.span(), message, String::new(), Some(help));
                }
            }
            Stmt::SetBlock(node) => node.filter.iter().for_each(|filter| self.expr(filter)),
            Stmt::FilterBlock(node) => self.expr(&node.filter),
            Stmt::AutoEscape(node) => {
                let help = "what a template puts out is always escaped for its format".to_owned();
                self.report(node.span(), "escaping cannot be switched".to_owned(), String::new(), Some(help));
            }
            Stmt::Do(node) => node.call.args.iter().for_each(|argument| self.argument(argument)),
            _ => {}
        }
        for child in children(stmt) {
            self.stmt(child);
        }
    }

    fn argument(&mut self, argument: &CallArg<'_>) {
        match argument {
            CallArg::Pos(expr) | CallArg::Kwarg(_, expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                self.expr(expr);
            }
        }
    }

    fn expr(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::Var(var) => self.variable(var.id, expr.span()),
            Expr::Const(_) => {}
            Expr::Slice(node) => {
                self.expr(&node.expr);
                [&node.start, &node.stop, &node.step].into_iter().flatten().for_each(|expr| self.expr(expr));
            }
            Expr::UnaryOp(node) => self.expr(&node.expr),
            Expr::BinOp(node) => {
                self.expr(&node.left);
                self.expr(&node.right);
            }
            Expr::Compare(node) => {
                self.expr(&node.expr);
                node.ops.iter().for_each(|operand| self.expr(&operand.expr));
            }
            Expr::IfExpr(node) => {
                self.expr(&node.test_expr);
                self.expr(&node.true_expr);
                node.false_expr.iter().for_each(|expr| self.expr(expr));
            }
            Expr::Filter(node) => {
                node.expr.iter().for_each(|expr| self.expr(expr));
                node.args.iter().for_each(|argument| self.argument(argument));
                self.filter(node.name, &node.args, expr.span());
            }
            Expr::Test(node) => {
                self.expr(&node.expr);
                node.args.iter().for_each(|argument| self.argument(argument));
                let known = !matches!(ENVIRONMENT.empty_state().perform_test(node.name, &[]), Err(error) if error.kind() == ErrorKind::UnknownTest);
                if !known {
                    self.report(expr.span(), format!("no test is called `{}`", node.name), String::new(), None);
                }
            }
            Expr::GetAttr(node) => {
                self.expr(&node.expr);
                self.member(&node.expr, node.name, expr.span());
            }
            Expr::GetItem(node) => {
                self.expr(&node.expr);
                self.expr(&node.subscript_expr);
                if let Expr::Const(name) = &node.subscript_expr
                    && let Some(name) = name.value.as_str()
                {
                    self.member(&node.expr, name, expr.span());
                }
                if let (Expr::Var(var), Expr::Const(path)) = (&node.expr, &node.subscript_expr)
                    && var.id == "msg"
                {
                    self.path(&path.value, node.subscript_expr.span());
                }
            }
            Expr::Call(node) => {
                node.args.iter().for_each(|argument| self.argument(argument));
                self.call(&node.expr, &node.args);
            }
            Expr::List(node) => node.items.iter().for_each(|expr| self.expr(expr)),
            Expr::Tuple(node) => node.items.iter().for_each(|expr| self.expr(expr)),
            Expr::Map(node) => node.keys.iter().chain(&node.values).for_each(|expr| self.expr(expr)),
        }
    }

    fn variable(&mut self, name: &str, span: Span) {
        let variables = match self.at {
            At::Answer { .. } => VARIABLES,
            _ => &VARIABLES[..VARIABLES.len() - 1],
        };
        let known = variables.contains(&name)
            || JINJA_VARIABLES.contains(&name)
            || self.assigned.contains(name)
            || ENVIRONMENT.globals().any(|(global, _)| global == name);
        if !known {
            let near = did_you_mean(name, variables.iter().copied().chain(self.assigned.iter().map(String::as_str)));
            let label = near.map_or(String::new(), |near| format!("did you mean `{near}`?"));
            let help = format!("variables are {}", variables.join(", "));
            self.report(span, format!("no variable is called `{name}`"), label, Some(help));
        }
    }

    /// `meta.lab`: what `meta` has is known.
    fn member(&mut self, of: &Expr<'_>, name: &str, span: Span) {
        let is_meta = matches!(of, Expr::Var(var) if var.id == "meta") && !self.assigned.contains("meta");
        if is_meta && !META.contains(&name) {
            let near = did_you_mean(name, META.iter().copied());
            let label = near.map_or(String::new(), |near| format!("did you mean `{near}`?"));
            self.report(span, format!("`meta` has no `{name}`"), label, Some(format!("one of {}", META.join(", "))));
        }
    }

    fn call(&mut self, callee: &Expr<'_>, args: &[CallArg<'_>]) {
        let method = match callee {
            Expr::GetAttr(node) if matches!(&node.expr, Expr::Var(var) if var.id == "msg") => node.name,
            Expr::GetAttr(node) => return self.expr(&node.expr),
            other => return self.expr(other),
        };
        if !METHODS.contains(&method) {
            let message = format!("`msg` has no method `{method}`");
            self.report(callee.span(), message, String::new(), Some(format!("one of {}", METHODS.join(", "))));
        } else if let Some(wrong) = arguments::of_method(method, args) {
            self.wrong_argument(wrong, args, callee.span());
        }
    }

    fn wrong_argument(&mut self, wrong: Wrong, args: &[CallArg<'_>], call: Span) {
        let span = match wrong.argument.and_then(|at| args.get(at)) {
            Some(CallArg::Pos(argument)) => argument.span(),
            _ => call,
        };
        self.report(span, wrong.message, String::new(), Some(wrong.help));
    }

    fn filter(&mut self, name: &str, args: &[CallArg<'_>], span: Span) {
        let unknown = matches!(ENVIRONMENT.empty_state().apply_filter(name, &[]), Err(error) if error.kind() == ErrorKind::UnknownFilter);
        if unknown {
            let label = did_you_mean(name, FILTERS.iter().copied())
                .map_or(String::new(), |near| format!("did you mean `{near}`?"));
            self.report(span, format!("no filter is called `{name}`"), label, None);
        } else if name == "lookup" {
            self.table(args, span);
        } else if name == "safe" && !matches!(self.escaping, Escaping::Json | Escaping::Xml) {
            let help = "what holds separators on purpose is written in the template, or by a `copy` step".to_owned();
            self.report(span, "`safe` is for JSON and XML templates".to_owned(), String::new(), Some(help));
        } else if let Some(wrong) = arguments::of_filter(name, args) {
            self.wrong_argument(wrong, args, span);
        }
    }

    fn table(&mut self, args: &[CallArg<'_>], span: Span) {
        let Some(CallArg::Pos(Expr::Const(path))) = args.first() else {
            let help = "write lookup('tables/codes.csv')".to_owned();
            return self.report(span, "`lookup` needs a table's path as text".to_owned(), String::new(), Some(help));
        };
        let path = path.value.as_str().unwrap_or_default().to_owned();
        let place = match self.at {
            At::Value { span: value, text } | At::Answer { span: value, text } => {
                config::text_place(value, text, range(span))
            }
            At::File(_) => 0..0,
        };
        match config::load_text(&place, &path, "table") {
            Some(file) => match LookupTable::parse(&file.text, None, None) {
                Ok(table) => {
                    self.tables.insert(path, table);
                }
                Err(error) => {
                    self.clean = false;
                    config::report_in(&file, line_span(&file.text, error.line), error.message, "");
                }
            },
            None => self.clean = false,
        }
    }

    /// A path or pointer that stands there as text. What is neither (a name of a JSON member) is left to the message.
    fn path(&mut self, value: &Value, span: Span) {
        let Some(text) = value.as_str() else { return };
        if text.starts_with('/') && text.split('/').any(|name| name == "*") {
            let help = "write msg['/list/' ~ each.index ~ '/name']".to_owned();
            return self.report(span, "`*` stands for no element here".to_owned(), String::new(), Some(help));
        }
        let is_hl7 = !text.starts_with('/') && (text.contains(['-', '[', '.']) || text.len() == 3);
        if let (true, Err(error)) = (is_hl7, text.parse::<hl7::Path>()) {
            let inner = range(span);
            let end = inner.end.saturating_sub(1);
            let start = (inner.start + 1 + error.offset).min(end);
            self.clean = false;
            self.at.report(start..end, format!("`{text}` is not an HL7 path"), error.message, error.help);
        }
    }
}

/// Whether an expression can only give a number, text or a boolean. A list put into a list again and again by a loop would grow
/// deeper than the stack on which it is dropped; only a namespace outlives a loop's round.
fn is_scalar(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(node) => matches!(node.value.kind(), ValueKind::Number | ValueKind::String | ValueKind::Bool),
        Expr::Compare(_) | Expr::Test(_) | Expr::UnaryOp(_) => true,
        Expr::BinOp(node) => match node.op {
            BinOpKind::Concat | BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem => true,
            BinOpKind::Eq | BinOpKind::Ne | BinOpKind::In => true,
            // A list plus a number is an error, a list plus a list is none.
            BinOpKind::Add => is_scalar(&node.left) || is_scalar(&node.right),
            _ => is_scalar(&node.left) && is_scalar(&node.right),
        },
        Expr::IfExpr(node) => is_scalar(&node.true_expr) && node.false_expr.iter().all(is_scalar),
        Expr::Filter(node) => {
            // What a filter gives where it finds nothing is one of its arguments.
            let scalar = |argument: &CallArg<'_>| match argument {
                CallArg::Pos(expr) | CallArg::Kwarg(_, expr) => is_scalar(expr),
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => false,
            };
            SCALAR_FILTERS.contains(&node.name) && node.args.iter().all(scalar)
        }
        _ => false,
    }
}

/// The statements within a statement.
fn children<'a, 's>(stmt: &'a Stmt<'s>) -> Vec<&'a Stmt<'s>> {
    match stmt {
        Stmt::Template(node) => node.children.iter().collect(),
        Stmt::ForLoop(node) => node.body.iter().chain(&node.else_body).collect(),
        Stmt::IfCond(node) => node.true_body.iter().chain(&node.false_body).collect(),
        Stmt::WithBlock(node) => node.body.iter().collect(),
        Stmt::SetBlock(node) => node.body.iter().collect(),
        Stmt::AutoEscape(node) => node.body.iter().collect(),
        Stmt::FilterBlock(node) => node.body.iter().collect(),
        Stmt::Macro(node) => node.body.iter().collect(),
        Stmt::CallBlock(node) => node.macro_decl.body.iter().collect(),
        _ => Vec::new(),
    }
}

/// The bytes of a line, counted from 1.
pub(crate) fn line_span(text: &str, line: u64) -> Range<usize> {
    let mut start = 0;
    for (at, content) in (1..).zip(text.split_inclusive('\n')) {
        if at == line {
            return start..start + content.trim_end().len();
        }
        start += content.len();
    }
    text.len()..text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suggested_filter_exists() {
        for name in FILTERS {
            let unknown = matches!(ENVIRONMENT.empty_state().apply_filter(name, &[]), Err(error) if error.kind() == ErrorKind::UnknownFilter);
            assert!(!unknown, "{name}");
        }
    }
}
