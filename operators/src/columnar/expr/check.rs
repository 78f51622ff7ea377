//! From SQL text to a syntax tree in which every name is known, or to an error that points at the place.

use std::ops::{ControlFlow, Range};

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, Spanned, Subscript, Value, ValueWithSpan, Visit, Visitor, visit_expressions_mut,
};
use datafusion_sql::sqlparser::dialect::{Dialect, Precedence};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, Tokenizer, Word};

use super::ExprError;
use super::functions::catalog;
use crate::columnar::schema::describe_type;
use crate::suggest::{did_you_mean, nearest};

/// Longer expressions are refused, so that no chain of operators is too deep for the stack.
const MAX_TOKENS: usize = 500;

/// The SQL that is understood: DataFusion's generic one with lambdas and struct literals, and without what would
/// change the meaning of ordinary expressions.
#[derive(Debug)]
struct Sql;

impl Dialect for Sql {
    fn is_identifier_start(&self, c: char) -> bool {
        c.is_alphabetic() || c == '_'
    }

    fn is_identifier_part(&self, c: char) -> bool {
        c.is_alphanumeric() || c == '_'
    }

    // As in PostgreSQL: `'a' || n + 1` is `'a' || (n + 1)`.
    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        let concat = parser.peek_token_ref().token == Token::StringConcat;
        concat.then(|| Ok(self.prec_value(Precedence::Xor)))
    }

    fn supports_lambda_functions(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    fn support_map_literal_syntax(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }
}

/// Where a place of the parser, in lines and letters, is in bytes.
fn offset(sql: &str, at: Location) -> usize {
    let skip = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = sql.split_inclusive('\n').take(skip).map(str::len).sum();
    let letters = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = sql.get(start..).unwrap_or("");
    line.char_indices().nth(letters).map_or(sql.len(), |(byte, _)| start + byte)
}

/// The bytes of a span, if it is known.
pub(in crate::columnar) fn bytes(sql: &str, span: Span) -> Option<Range<usize>> {
    let known = span.start.line > 0 && span.end.line > 0;
    let range = offset(sql, span.start)..offset(sql, span.end);
    (known && range.start <= range.end).then_some(range)
}

/// Reads one expression, and nothing behind it.
pub(in crate::columnar) fn parse(sql: &str, input: &Schema) -> Result<Expr, ExprError> {
    let tokens = Tokenizer::new(&Sql, sql).tokenize_with_location().map_err(|error| {
        let start = offset(sql, error.location);
        ExprError::new(error.message).within(start..sql.len())
    })?;
    let words: Vec<_> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect();
    match words.first().map(|first| (&first.token, first.span)) {
        None => return Err(ExprError::new("the expression is empty").within(0..sql.len())),
        Some((Token::Word(Word { keyword: Keyword::SELECT | Keyword::WITH, quote_style: None, .. }), span)) => {
            let help = "write what you would write behind `select` or `where`".to_owned();
            return Err(ExprError::new("this must be an expression, not a query").within(bytes(sql, span)).help(help));
        }
        Some(_) => {}
    }
    if words.len() > MAX_TOKENS {
        let what = format!("the expression is longer than {MAX_TOKENS} words and symbols");
        return Err(ExprError::new(what).help("take it apart into several steps".to_owned()));
    }
    let mut parser = Parser::new(&Sql).with_tokens_with_locations(tokens);
    let parsed = parser.parse_expr();
    let next = parser.peek_token();
    match parsed {
        Ok(parsed) if next.token == Token::EOF => Ok(plain(parsed)),
        Ok(_) => {
            let error = ExprError::new(format!("`{}` does not belong here", next.token));
            Err(error.within(bytes(sql, next.span)).help(reserved(&next.token.to_string(), input)))
        }
        Err(ParserError::RecursionLimitExceeded) => Err(ExprError::new("the expression is nested too deep")),
        Err(ParserError::ParserError(message) | ParserError::TokenizerError(message)) => {
            Err(parse_error(sql, &message, input))
        }
    }
}

/// Two spellings that the planner does not know, as it knows them: `points[1].x` is `points[1]['x']`, and
/// `substring(a from 2 for 1)` is `substr(a, 2, 1)`.
fn plain(mut parsed: Expr) -> Expr {
    let _ = visit_expressions_mut(&mut parsed, |expr| {
        match expr {
            Expr::CompoundFieldAccess { access_chain, .. } => {
                for access in access_chain {
                    if let AccessExpr::Dot(Expr::Identifier(ident)) = access {
                        let value = Value::SingleQuotedString(ident.value.clone());
                        let index = Expr::Value(ValueWithSpan { value, span: ident.span });
                        *access = AccessExpr::Subscript(Subscript::Index { index });
                    }
                }
            }
            Expr::Substring { expr: text, substring_from, substring_for, .. } => {
                let from = substring_from.take().unwrap_or_else(|| {
                    let value = Value::Number("1".to_owned(), false);
                    Box::new(Expr::Value(ValueWithSpan { value, span: Span::empty() }))
                });
                let arguments = [Some((**text).clone()), Some(*from), substring_for.take().map(|length| *length)];
                let arguments = arguments.into_iter().flatten().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a)));
                *expr = call("substr", arguments.collect());
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    parsed
}

fn call(name: &str, args: Vec<FunctionArg>) -> Expr {
    let args = FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() });
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args,
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// The parser's words (`Expected: an expression, found: EOF at Line: 1, Column: 3`) in ours.
fn parse_error(sql: &str, message: &str, input: &Schema) -> ExprError {
    let (words, place) = message.split_once(" at Line: ").unwrap_or((message, ""));
    let place = place.split_once(", Column: ").and_then(|(line, column)| {
        let column: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some(offset(sql, Location { line: line.parse().ok()?, column: column.parse().ok()? }))
    });
    let Some((expected, found)) = words.strip_prefix("Expected: ").and_then(|words| words.rsplit_once(", found: "))
    else {
        let place_text = place.and_then(|start| sql.get(start..)).unwrap_or("");
        let help = match words.starts_with("No infix parser") {
            true if place_text.starts_with("&&") => Some("write `and`".to_owned()),
            _ => None,
        };
        let words = if words.starts_with("No infix parser") { "there is no such operator" } else { words };
        return ExprError::new(words).help(help).within(place.map(|start| start..sql.len()));
    };
    if found == "EOF" {
        return ExprError::new(format!("expected {expected}, found the end")).within(sql.len()..sql.len());
    }
    let start = place.unwrap_or(0);
    if found == "*" {
        let error = ExprError::new("`*` is not a value").within(start..start + 1);
        return error.help("name the columns".to_owned());
    }
    let within = start..(start + found.len()).min(sql.len());
    let within = sql.get(within.clone()).map(|_| within);
    let error = ExprError::new(format!("expected {expected}, found `{found}`")).within(within);
    error.help(reserved(found, input))
}

/// A hint for a word of SQL that stands where a column may have been meant.
fn reserved(word: &str, input: &Schema) -> Option<String> {
    let column = input.column_with_name(word).is_some();
    column.then(|| format!("`{word}` is a word of SQL: write \"{word}\" for the column"))
}

/// Checks every name, and refuses what an expression over one row cannot hold. Gives the columns, each once.
pub(super) fn check(sql: &str, parsed: &Expr, input: &Schema) -> Result<Vec<String>, ExprError> {
    let mut checker = Checker { sql, input, parameters: Vec::new(), columns: Vec::new() };
    match parsed.visit(&mut checker) {
        ControlFlow::Continue(()) => Ok(checker.columns),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Checker<'a> {
    sql: &'a str,
    input: &'a Schema,
    // Of the lambdas around this place.
    parameters: Vec<String>,
    columns: Vec<String>,
}

const AGGREGATES: [&str; 30] = [
    "sum",
    "count",
    "avg",
    "mean",
    "min",
    "max",
    "median",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var",
    "var_pop",
    "var_samp",
    "variance",
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "nth_value",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "corr",
    "covar_pop",
    "covar_samp",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
];
const WINDOW_FUNCTIONS: [&str; 8] =
    ["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"];

impl Checker<'_> {
    fn refuse(&self, what: impl Into<String>, span: Span, help: impl Into<Option<String>>) -> Box<ExprError> {
        Box::new(ExprError::new(what).within(bytes(self.sql, span)).help(help))
    }

    fn column(&mut self, ident: &Ident) -> Result<Option<&Field>, Box<ExprError>> {
        if self.parameters.contains(&ident.value) {
            return Ok(None);
        }
        let Some((_, field)) = self.input.column_with_name(&ident.value) else {
            let names = self.input.fields().iter().map(|field| field.name().as_str());
            let text = ident.quote_style == Some('"') && nearest(&ident.value, names.clone()).is_none();
            let help = match text {
                true => Some(format!("text stands in single quotes: '{}'", ident.value)),
                false => did_you_mean(&ident.value, "columns", names),
            };
            return Err(self.refuse(format!("there is no column `{}`", ident.value), ident.span, help));
        };
        if !self.columns.contains(&ident.value) {
            self.columns.push(ident.value.clone());
        }
        Ok(Some(field))
    }

    /// `column.field.field`
    fn path(&mut self, path: &[Ident], span: Span) -> Result<(), Box<ExprError>> {
        let Some((column, path)) = path.split_first() else { return Ok(()) };
        let Some(field) = self.column(column)? else { return Ok(()) };
        let (mut name, mut data_type) = (field.name().clone(), field.data_type().clone());
        for ident in path {
            let DataType::Struct(fields) = &data_type else {
                let what = format!("`{name}` is {} and has no fields", describe_type(&data_type));
                return Err(self.refuse(what, span, None));
            };
            let Some((_, field)) = fields.find(&ident.value) else {
                let help = did_you_mean(&ident.value, "fields", fields.iter().map(|field| field.name().as_str()));
                return Err(self.refuse(format!("`{name}` has no field `{}`", ident.value), span, help));
            };
            name = format!("{name}.{}", ident.value);
            data_type = field.data_type().clone();
        }
        Ok(())
    }

    fn function(&mut self, function: &Function) -> Result<(), Box<ExprError>> {
        let name = match function.name.0.as_slice() {
            [part] => match part.as_ident() {
                Some(Ident { value, quote_style: None, .. }) => value.to_lowercase(),
                _ => part.to_string(),
            },
            _ => function.name.to_string(),
        };
        let span = function.name.span();
        let of_many_rows = || Some("use `aggregate` in a step that has a `window`".to_owned());
        if function.over.is_some() || WINDOW_FUNCTIONS.contains(&name.as_str()) {
            let what = format!("`{name}` looks at other rows, and an expression has one row at a time");
            return Err(self.refuse(what, span, of_many_rows()));
        }
        if catalog().has(&name) {
            return Ok(());
        }
        if AGGREGATES.contains(&name.as_str()) {
            let what = format!("`{name}` takes many rows together, and an expression has one row at a time");
            let help = match name.as_str() {
                "min" => Some("for the least of several values of one row use `least`".to_owned()),
                "max" => Some("for the greatest of several values of one row use `greatest`".to_owned()),
                _ => of_many_rows(),
            };
            return Err(self.refuse(what, span, help));
        }
        if matches!(name.as_str(), "random" | "rand" | "uuid" | "gen_random_uuid") {
            let what = format!("`{name}` would give another value when a row is processed again");
            let help = "a row's origin makes a stable id: its subject and sequence".to_owned();
            return Err(self.refuse(what, span, help));
        }
        if matches!(name.as_str(), "unnest" | "unnest_outer") {
            let what = format!("`{name}` makes many rows of one, and an expression gives one value");
            return Err(self.refuse(what, span, "use an `explode` step".to_owned()));
        }
        if let (FunctionArguments::None, [part]) = (&function.args, function.name.0.as_slice())
            && let Some(ident) = part.as_ident()
        {
            // `user` and the like: a function without parentheses to the parser, a column to everyone else.
            return self.column(ident).map(|_| ());
        }
        let help = did_you_mean(&name, "functions", catalog().names());
        let help = help.filter(|help| help.starts_with("did"));
        Err(self.refuse(format!("there is no function `{name}`"), span, help))
    }

    fn expression(&mut self, expr: &Expr) -> Result<(), Box<ExprError>> {
        match expr {
            Expr::Identifier(ident) if ident.value.starts_with('@') && ident.quote_style.is_none() => {
                Err(self.refuse("there are no variables in an expression", ident.span, None))
            }
            Expr::Identifier(ident) => self.column(ident).map(|_| ()),
            Expr::CompoundIdentifier(path) => self.path(path, expr.span()),
            Expr::Function(function) => self.function(function),
            Expr::Lambda(lambda) => {
                self.parameters.extend(lambda.params.iter().map(|parameter| parameter.name.value.clone()));
                Ok(())
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                let help = "bring other streams in with a join".to_owned();
                Err(self.refuse("a subquery reads other tables, and an expression has one row", expr.span(), help))
            }
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
                Err(self.refuse("`*` is not a value", expr.span(), "name the columns".to_owned()))
            }
            Expr::Value(ValueWithSpan { value: Value::Placeholder(name), span }) => {
                Err(self.refuse(format!("there is no value for the placeholder `{name}`"), *span, None))
            }
            _ => Ok(()),
        }
    }
}

impl Visitor for Checker<'_> {
    type Break = Box<ExprError>;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match self.expression(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        if let Expr::Lambda(lambda) = expr {
            let left = self.parameters.len().saturating_sub(lambda.params.iter().count());
            self.parameters.truncate(left);
        }
        ControlFlow::Continue(())
    }
}
