//! `lookup`: replaces a code by what a table says of it.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::config::{self, Entry};
use crate::expr::Each;
use crate::expr::line_span;
use crate::lookup_table::LookupTable;
use crate::message::Message;

use super::field::Target;
use super::{Place, Step, StepError, StepKind, Verdict};

pub(super) const KIND: StepKind = StepKind {
    name: "lookup",
    summary: "Replaces a code by what a CSV table says of it. An empty field stays as it is.",
    example: "lookup = { field = \"OBX-3.1\", table = \"tables/loinc.csv\", otherwise = \"keep\" }\n",
    schema: |generator| generator.subschema_for::<Options>(),
    parse,
};

/// Options of `lookup`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The field that holds the code.
    field: Target,
    /// The table: a CSV file with a header row, its path from the channel file.
    #[schemars(with = "String")]
    table: Spanned<String>,
    /// The column that holds the code; the first one when not given.
    from: Option<String>,
    /// The column that holds what the code becomes; the second one when not given.
    to: Option<String>,
    /// The field that takes the result; the code's own field when not given.
    into: Option<Target>,
    /// What to do with a code that the table does not hold.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// The message fails, and is shown as errored.
    #[default]
    Error,
    /// The field stays as it is.
    Keep,
    /// The field becomes empty.
    Empty,
}

#[derive(Debug)]
struct Lookup {
    field: Target,
    into: Target,
    table: LookupTable,
    otherwise: Otherwise,
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    let options = entry.into_table("lookup")?.read::<Options>()?;
    let file = config::load_text(&options.table.span(), options.table.get_ref(), "table")?;
    let into = options.into.unwrap_or_else(|| options.field.clone());
    match LookupTable::parse(&file.text, options.from.as_deref(), options.to.as_deref()) {
        Ok(table) => Some(Box::new(Lookup { field: options.field, into, table, otherwise: options.otherwise })),
        Err(error) => {
            config::report_in(&file, line_span(&file.text, error.line), error.message, "");
            None
        }
    }
}

impl Step for Lookup {
    fn places(&self) -> Vec<Place<'_>> {
        vec![Place(&self.field), Place(&self.into)]
    }

    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        let field = self.field.at(each);
        let code = field.text(message)?;
        if code.is_empty() {
            return Ok(Verdict::Continue);
        }
        let meaning = match (self.table.get(code.trim()), self.otherwise) {
            (Some(meaning), _) => meaning,
            (None, Otherwise::Keep) => return Ok(Verdict::Continue),
            (None, Otherwise::Empty) => "",
            (None, Otherwise::Error) => return Err(StepError::NotInTable { path: field.to_string() }),
        };
        self.into.at(each).set(message, meaning)?;
        Ok(Verdict::Continue)
    }
}
