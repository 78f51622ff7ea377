//! The subject and the headers of each message, filled from its row.

use bytes::Bytes;

use super::EncodeError;
use crate::columnar::cells::Rows;
use crate::columnar::schema::describe_field;
use crate::suggest::did_you_mean;
use crate::{Cause, Code, Headers, Template};
use arrow::datatypes::{DataType, Schema};

/// A template whose columns are known.
struct Filled {
    template: Template,
    columns: Vec<usize>,
}

impl Filled {
    fn new(template: Template, setting: &str, schema: &Schema) -> Result<Self, EncodeError> {
        let place = |name: &String| {
            let text = template.text();
            // Not where `{{` stands for a brace; a name that is found nowhere blames the whole text.
            let within = text.find(&format!("{{{name}}}")).map_or(0..text.len(), |at| at + 1..at + 1 + name.len());
            let error =
                |what, help| EncodeError { setting: setting.to_owned(), within: Some(within.clone()), what, help };
            let Some((place, field)) = schema.column_with_name(name) else {
                let known = schema.fields().iter().map(|field| field.name().as_str());
                return Err(error(format!("there is no column `{name}`"), did_you_mean(name, "columns", known)));
            };
            match field.data_type() {
                DataType::List(_) | DataType::Struct(_) | DataType::Map(..) | DataType::Binary => {
                    let what = format!("`{name}` is {}, which has no form in one word", describe_field(field));
                    Err(error(what, None))
                }
                _ => Ok(place),
            }
        };
        let columns = template.columns().iter().map(place).collect::<Result<_, _>>()?;
        Ok(Filled { template, columns })
    }

    fn write(&self, rows: &Rows<'_>, row: usize, out: &mut String) -> Result<(), Cause> {
        self.template.fill(out, |column, out| {
            let cells = self.columns.get(column).and_then(|place| rows.column(*place));
            cells.is_some_and(|cells| cells.write_text(row, out))
        })
    }
}

/// Where messages go.
pub(super) struct Address {
    subject: Option<Filled>,
    // The subject of every message, if there is no column in it.
    same: Option<Bytes>,
    headers: Vec<(String, Filled)>,
    // The headers up to the first with a column in it.
    first: Headers,
    value: String,
}

impl Address {
    /// Checks names and columns.
    pub(super) fn new(
        subject: Option<Template>,
        headers: Vec<(String, Template)>,
        schema: &Schema,
    ) -> Result<Self, Vec<EncodeError>> {
        let mut wrong = Vec::new();
        let mut keep = |result: Result<Filled, EncodeError>| result.map_err(|error| wrong.push(error)).ok();
        let constant = |template: &Template| template.constant().map(str::to_owned);
        let same = match &subject {
            Some(subject) => constant(subject).map(Bytes::from),
            None => Some(Bytes::new()),
        };
        let subject = subject.and_then(|template| keep(Filled::new(template, "subject", schema)));
        let mut filled = Vec::new();
        let mut first = Headers::default();
        for (name, template) in headers {
            let setting = format!("headers.{name}");
            let value = constant(&template).unwrap_or_default();
            let refused = match Headers::is_reserved(&name) {
                true => Some("headers that begin with `Nats-` have a meaning for the server".to_owned()),
                false => Headers::default().push(&name, &value).err().map(|error| error.to_string()),
            };
            let resolved = match refused {
                Some(what) => Err(EncodeError { setting, within: None, what, help: None }),
                None => Filled::new(template, &setting, schema),
            };
            let Some(resolved) = keep(resolved) else { continue };
            if filled.is_empty() && resolved.template.constant().is_some() {
                // Checked above.
                let _ = first.push(&name, &value);
            } else {
                filled.push((name, resolved));
            }
        }
        if wrong.is_empty() {
            Ok(Address { subject, same, headers: filled, first, value: String::new() })
        } else {
            Err(wrong)
        }
    }

    /// Whether no row changes anything.
    pub(super) fn is_constant(&self) -> bool {
        self.same.is_some() && self.headers.is_empty()
    }

    /// The subject, if it is the same for all.
    pub(super) fn same(&self) -> Option<&Bytes> {
        self.same.as_ref()
    }

    /// The columns that subject or headers name.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        let headers = self.headers.iter().map(|(_, filled)| filled);
        self.subject.iter().chain(headers).flat_map(|filled| filled.columns.iter().copied())
    }

    /// Appends the subject of a row, unless it is the same for all.
    pub(super) fn write_subject(&self, rows: &Rows<'_>, row: usize, out: &mut String) -> Result<(), Cause> {
        match &self.subject {
            Some(subject) if self.same.is_none() => subject.write(rows, row, out),
            _ => Ok(()),
        }
    }

    /// The headers of a row.
    pub(super) fn headers(&mut self, rows: &Rows<'_>, row: usize) -> Result<Headers, Cause> {
        let mut headers = self.first.clone();
        for (name, filled) in &self.headers {
            self.value.clear();
            filled.write(rows, row, &mut self.value)?;
            headers.push(name, &self.value).map_err(|error| Cause::new(Code::Address, error.to_string()))?;
        }
        Ok(headers)
    }

    /// The headers that all rows have.
    pub(super) fn first(&self) -> &Headers {
        &self.first
    }
}
