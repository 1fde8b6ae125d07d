//! What can be known of an expression before any message came: syntax, names, HL7 paths, tables.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use minijinja::machinery::ast::{CallArg, Expr, Stmt};
use minijinja::machinery::{Span, parse, parse_expr};
use minijinja::{Error, ErrorKind, Value};

use super::ENVIRONMENT;
use super::scope::METHODS;
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
    /// A file that the channel file names.
    File(&'a Arc<SourceFile>),
}

impl At<'_> {
    fn report(&self, within: Range<usize>, message: String, label: String, help: Option<String>) {
        match self {
            At::Value { span, text } => config::report(config::text_place(span, text, within), message, label, help),
            At::File(file) => {
                let label = help.map_or(label.clone(), |help| if label.is_empty() { help } else { label });
                config::report_in(file, within, message, label);
            }
        }
    }
}

/// Variables that every expression sees.
const VARIABLES: &[&str] = &["msg", "meta", "event", "each"];
/// Variables that Jinja itself makes.
const JINJA_VARIABLES: &[&str] = &["loop", "self", "super", "caller", "varargs", "kwargs", "true", "false", "none"];
/// Filters worth suggesting for a mistyped one.
pub(super) const FILTERS: &[&str] = &[
    "abs",
    "base64",
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

/// Block tags on lines of their own leave no blank lines behind.
pub(super) fn syntax() -> minijinja::syntax::SyntaxConfig {
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).build().expect("the delimiters are Jinja's own")
}

pub(super) fn expression(text: &str, at: &At<'_>, tables: &mut BTreeMap<String, LookupTable>) -> bool {
    match parse_expr(text) {
        Ok(parsed) => {
            let mut walk = Walk { at, tables, assigned: HashSet::new(), clean: true };
            walk.expr(&parsed);
            walk.clean
        }
        Err(error) => syntax_error(&error, text, at),
    }
}

pub(super) fn template(text: &str, at: &At<'_>, tables: &mut BTreeMap<String, LookupTable>) -> bool {
    match parse(text, "template", syntax()) {
        Ok(parsed) => {
            let mut walk = Walk { at, tables, assigned: HashSet::new(), clean: true };
            walk.assigned_in(&parsed);
            walk.stmt(&parsed);
            walk.clean
        }
        Err(error) => syntax_error(&error, text, at),
    }
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
            Stmt::Set(node) => self.expr(&node.expr),
            Stmt::SetBlock(node) => node.filter.iter().for_each(|filter| self.expr(filter)),
            Stmt::FilterBlock(node) => self.expr(&node.filter),
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
            Expr::GetAttr(node) => self.expr(&node.expr),
            Expr::GetItem(node) => {
                self.expr(&node.expr);
                self.expr(&node.subscript_expr);
                if let (Expr::Var(var), Expr::Const(path)) = (&node.expr, &node.subscript_expr)
                    && var.id == "msg"
                {
                    self.path(&path.value, node.subscript_expr.span());
                }
            }
            Expr::Call(node) => {
                node.args.iter().for_each(|argument| self.argument(argument));
                self.call(&node.expr);
            }
            Expr::List(node) => node.items.iter().for_each(|expr| self.expr(expr)),
            Expr::Tuple(node) => node.items.iter().for_each(|expr| self.expr(expr)),
            Expr::Map(node) => node.keys.iter().chain(&node.values).for_each(|expr| self.expr(expr)),
        }
    }

    fn variable(&mut self, name: &str, span: Span) {
        let known = VARIABLES.contains(&name)
            || JINJA_VARIABLES.contains(&name)
            || self.assigned.contains(name)
            || ENVIRONMENT.globals().any(|(global, _)| global == name);
        if !known {
            let near = did_you_mean(name, VARIABLES.iter().copied().chain(self.assigned.iter().map(String::as_str)));
            let label = near.map_or(String::new(), |near| format!("did you mean `{near}`?"));
            let help = format!("variables are {}", VARIABLES.join(", "));
            self.report(span, format!("no variable is called `{name}`"), label, Some(help));
        }
    }

    fn call(&mut self, callee: &Expr<'_>) {
        match callee {
            Expr::GetAttr(node) => {
                self.expr(&node.expr);
                if matches!(&node.expr, Expr::Var(var) if var.id == "msg") && !METHODS.contains(&node.name) {
                    let message = format!("`msg` has no method `{}`", node.name);
                    self.report(callee.span(), message, String::new(), Some(format!("one of {}", METHODS.join(", "))));
                }
            }
            other => self.expr(other),
        }
    }

    fn filter(&mut self, name: &str, args: &[CallArg<'_>], span: Span) {
        let unknown = matches!(ENVIRONMENT.empty_state().apply_filter(name, &[]), Err(error) if error.kind() == ErrorKind::UnknownFilter);
        if unknown {
            let label = did_you_mean(name, FILTERS.iter().copied())
                .map_or(String::new(), |near| format!("did you mean `{near}`?"));
            self.report(span, format!("no filter is called `{name}`"), label, None);
        } else if name == "lookup" {
            self.table(args, span);
        }
    }

    fn table(&mut self, args: &[CallArg<'_>], span: Span) {
        let Some(CallArg::Pos(Expr::Const(path))) = args.first() else {
            let help = "write lookup('tables/codes.csv')".to_owned();
            return self.report(span, "`lookup` needs a table's path as text".to_owned(), String::new(), Some(help));
        };
        let path = path.value.as_str().unwrap_or_default().to_owned();
        let place = match self.at {
            At::Value { span: value, text } => config::text_place(value, text, range(span)),
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
