//! `filter`: only messages for which the expression is true go on.

use crate::config::Entry;
use crate::expr::{Each, Expression};
use crate::message::Message;

use super::{Step, StepError, StepKind, Verdict, scope};

pub(super) const KIND: StepKind = StepKind {
    name: "filter",
    summary: "Lets a message go on only when an expression is true; others are journaled as filtered and acknowledged.",
    example: "filter = \"msg['MSH-9.1'] == 'ORU'\"\n",
    schema: |generator| generator.subschema_for::<Expression>(),
    parse: |entry| Entry::read::<Expression>(entry).map(|expression| Box::new(Filter(expression)) as Box<dyn Step>),
};

#[derive(Debug)]
struct Filter(Expression);

impl Step for Filter {
    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        Ok(if self.0.is_true(&scope(message, each))? { Verdict::Continue } else { Verdict::Filtered })
    }
}
