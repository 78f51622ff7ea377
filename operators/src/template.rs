//! [`Template`]: a subject or header value with columns in it, such as `totals.{customer}`.

use std::fmt;
use std::ops::Range;

use crate::{Cause, Code};

/// A text with `{column}`s to be filled from a row. `{{` and `}}` stand for the braces themselves.
///
/// Every filled piece is validated, so that no row can write to a subject that its writer did not mean: in a subject a
/// piece must not be empty nor hold a dot, a wildcard, a space or a control character; in a header value it must not
/// hold CR, LF or NUL.
///
/// ```
/// use millstream_operators::Template;
/// let subject = Template::subject("totals.{customer}").unwrap();
/// let fill = |text: &str| {
///     let mut out = String::new();
///     subject.fill(&mut out, |_, out| { out.push_str(text); true }).map(|()| out)
/// };
/// assert_eq!(fill("c-7").unwrap(), "totals.c-7");
/// assert!(fill("c.7").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
    columns: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Column(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Subject,
    Header,
}

/// What is wrong with a template: some bytes of it, why, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTemplate {
    /// The bytes of the text that are to blame.
    pub within: Range<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for InvalidTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for InvalidTemplate {}

impl Template {
    /// Reads a subject template.
    ///
    /// # Errors
    /// A brace without its partner, an empty column name, or literal text that no subject can hold.
    pub fn subject(text: &str) -> Result<Self, InvalidTemplate> {
        let template = Template::parse(text, Kind::Subject)?;
        let mut sample = String::new();
        let filled = template.fill(&mut sample, |_, out| {
            out.push('x');
            true
        });
        if filled.is_ok() {
            check_subject(&sample).map_err(|why| InvalidTemplate { within: 0..text.len(), what: why.to_owned() })?;
        }
        Ok(template)
    }

    /// Reads a header value template.
    ///
    /// # Errors
    /// A brace without its partner, or an empty column name.
    pub fn header(text: &str) -> Result<Self, InvalidTemplate> {
        Template::parse(text, Kind::Header)
    }

    fn parse(text: &str, kind: Kind) -> Result<Self, InvalidTemplate> {
        let (mut pieces, mut columns, mut literal) = (Vec::new(), Vec::<String>::new(), String::new());
        let mut rest = text.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            match c {
                '{' | '}' if rest.next_if(|(_, next)| *next == c).is_some() => literal.push(c),
                '{' => {
                    let name: String =
                        std::iter::from_fn(|| rest.next_if(|(_, c)| !matches!(c, '{' | '}'))).map(|(_, c)| c).collect();
                    if rest.next_if(|(_, c)| *c == '}').is_none() {
                        let what = "`{` has no `}`; write `{{` for the brace itself".to_owned();
                        return Err(InvalidTemplate { within: at..at + 1, what });
                    }
                    let name = name.trim();
                    if name.is_empty() {
                        let what = "`{}` names no column".to_owned();
                        return Err(InvalidTemplate { within: at..at + 2, what });
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    let column = columns.iter().position(|known| known == name).unwrap_or_else(|| {
                        columns.push(name.to_owned());
                        columns.len() - 1
                    });
                    pieces.push(Piece::Column(column));
                }
                '}' => {
                    let what = "`}` has no `{`; write `}}` for the brace itself".to_owned();
                    return Err(InvalidTemplate { within: at..at + 1, what });
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template { text: text.to_owned(), pieces, columns, kind })
    }

    /// The columns that it names, each once; [`Template::fill`] asks for them by their place here.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text itself, if there is no column in it.
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with `*` for every token that a column is in: what may be written to.
    pub fn pattern(&self) -> String {
        let mut marked = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => marked.push_str(text),
                Piece::Column(_) => marked.push('\0'),
            }
        }
        let tokens = marked.split('.').map(|token| if token.contains('\0') { "*" } else { token });
        tokens.collect::<Vec<_>>().join(".")
    }

    /// Appends the filled text to `out`. `write(column, out)` appends a column's value, and returns whether there is
    /// one: a null is refused.
    ///
    /// # Errors
    /// A cause that names the column and what its value may not hold; `out` is left longer then.
    pub fn fill(&self, out: &mut String, mut write: impl FnMut(usize, &mut String) -> bool) -> Result<(), Cause> {
        for piece in &self.pieces {
            let column = match piece {
                Piece::Literal(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Column(column) => *column,
            };
            let start = out.len();
            let refused = match write(column, out) {
                false => Some("is null"),
                true => self.refuses(out.get(start..).unwrap_or_default()),
            };
            if let Some(why) = refused {
                let name = self.columns.get(column).map_or("", String::as_str);
                let value: String = out.get(start..).unwrap_or_default().chars().take(64).collect();
                let place = if self.kind == Kind::Subject { "subject" } else { "header" };
                let words =
                    format!("column `{name}` cannot be part of the {place} `{}`: it {why} ({value:?})", self.text);
                return Err(Cause::new(Code::Address, words));
            }
        }
        Ok(())
    }

    fn refuses(&self, value: &str) -> Option<&'static str> {
        match self.kind {
            Kind::Subject => check_token(value).err(),
            Kind::Header => value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)).then_some("holds a CR, LF or NUL"),
        }
    }
}

/// Whether `token` may be one token of a subject that is published to.
///
/// # Errors
/// What it holds that it may not.
pub fn check_token(token: &str) -> Result<(), &'static str> {
    match token.bytes().find(|b| matches!(b, b'.' | b'*' | b'>' | b' ') || b.is_ascii_control()) {
        None if token.is_empty() => Err("is empty"),
        None if token.chars().any(|c| c.is_whitespace() || c.is_control()) => Err("holds a space or control character"),
        None => Ok(()),
        Some(b'.') => Err("holds a dot"),
        Some(b'*' | b'>') => Err("holds a wildcard"),
        Some(_) => Err("holds a space or control character"),
    }
}

/// Whether `subject` may be published to.
///
/// # Errors
/// What is wrong with it.
pub fn check_subject(subject: &str) -> Result<(), &'static str> {
    for token in subject.split('.') {
        check_token(token).map_err(|why| match why {
            "is empty" => "a subject must not have an empty token",
            "holds a wildcard" => "a subject to publish to must not hold a wildcard",
            _ => "a subject must not hold a space or control character",
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &Template, values: &[&str]) -> Result<String, Cause> {
        let mut out = String::new();
        template
            .fill(&mut out, |column, out| {
                out.push_str(values[column]);
                true
            })
            .map(|()| out)
    }

    #[test]
    fn columns_are_filled_in_where_they_stand() {
        let template = Template::subject("a.{x}-{y}.{x}").unwrap();
        assert_eq!(template.columns(), ["x", "y"]);
        assert_eq!(filled(&template, &["1", "2"]).unwrap(), "a.1-2.1");
        assert_eq!(template.pattern(), "a.*.*");
        assert_eq!(template.constant(), None);
    }

    #[test]
    fn no_value_can_change_the_shape_of_a_subject() {
        let template = Template::subject("a.{x}").unwrap();
        for bad in ["", "b.c", "*", ">", "a b", "a\tb", "a\r\nb", "\0", "\u{a0}"] {
            let cause = filled(&template, &[bad]).unwrap_err();
            assert!(cause.code == Code::Address && cause.message.contains("`x`"), "{bad:?}: {cause}");
        }
        assert!(template.fill(&mut String::new(), |_, _| false).unwrap_err().message.contains("is null"));
    }

    #[test]
    fn a_header_takes_dots_but_no_line_ends() {
        let template = Template::header("id {x}").unwrap();
        assert_eq!(filled(&template, &["1.2 3"]).unwrap(), "id 1.2 3");
        assert!(filled(&template, &["1\r\nNats-Msg-Id: 2"]).is_err());
    }

    #[test]
    fn a_template_that_makes_no_sense_is_refused_with_its_place() {
        for (text, at) in [("a.{x", 2), ("a.}", 2), ("a.{}", 2), ("a..b", 0), ("a b", 0), ("", 0), ("a.*", 0)] {
            let error = Template::subject(text).unwrap_err();
            assert_eq!(error.within.start, at, "{text}: {error}");
        }
        assert_eq!(Template::header("{{x}}").unwrap().constant(), Some("{x}"));
    }
}
