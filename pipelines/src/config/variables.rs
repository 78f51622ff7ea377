//! Variables in a file: `${NAME}` and `${NAME:-otherwise}` in any text, and secrets by reference.

use std::borrow::Cow;

use toml::de::DeValue;

use super::{Mistake, Value};

/// Where variables and the files of secrets come from; a test has its own.
pub(super) struct Outside<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) secret_file: &'a dyn Fn(&str) -> Result<String, String>,
}

impl Outside<'_> {
    /// Fills in the variables of every text in a value. `$${` stands for `${` itself.
    pub(super) fn fill(&self, value: &mut Value<'_>, mistakes: &mut Vec<Mistake>) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("${") => match self.filled(text) {
                Ok(filled) => *text = Cow::Owned(filled),
                Err((what, help)) => mistakes.push(Mistake::at(span, what).help(help)),
            },
            DeValue::Array(items) => items.iter_mut().for_each(|item| self.fill(item, mistakes)),
            DeValue::Table(table) => table.iter_mut().for_each(|(_, value)| self.fill(value, mistakes)),
            _ => {}
        }
    }

    fn filled(&self, text: &str) -> Result<String, (String, String)> {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find("${") {
            let (before, behind) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = behind.strip_prefix("${").unwrap_or("");
                continue;
            }
            out.push_str(before);
            let Some((inner, behind)) = behind.strip_prefix("${").and_then(|inner| inner.split_once('}')) else {
                let help = "write `${NAME}`, `${NAME:-otherwise}`, or `$${` for the signs themselves";
                return Err(("`${` has no `}`".to_owned(), help.to_owned()));
            };
            let (name, otherwise) = match inner.split_once(":-") {
                Some((name, otherwise)) => (name, Some(otherwise)),
                None => (inner, None),
            };
            match ((self.variable)(name), otherwise) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(otherwise)) => out.push_str(otherwise),
                (None, None) => {
                    let help = format!("set it, or write `${{{name}:-otherwise}}`");
                    return Err((format!("the environment variable `{name}` is not set"), help));
                }
            }
            rest = behind;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The secret that a table refers to: `{ env = "NAME" }` or `{ file = "/run/secrets/name" }`.
    pub(super) fn secret(&self, reference: &DeValue<'_>) -> Option<Result<String, String>> {
        let DeValue::Table(table) = reference else { return None };
        let mut entries = table.iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else { return None };
        let name = value.get_ref().as_str()?;
        match key.get_ref().as_ref() {
            "env" => {
                let missing = || format!("the environment variable `{name}` is not set");
                Some((self.variable)(name).ok_or_else(missing))
            }
            "file" => Some((self.secret_file)(name).map(|text| text.trim_end_matches(['\r', '\n']).to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let variable = |name: &str| (name == "SET").then(|| "x".to_owned());
        let outside = Outside { variable: &variable, secret_file: &|_| Err("none".to_owned()) };
        outside.filled(text).map_err(|(what, _)| what)
    }

    #[test]
    fn variables_are_filled_in_and_missing_ones_are_named() {
        assert_eq!(filled("a ${SET} b ${UNSET:-y}${SET:-z}").unwrap(), "a x b yx");
        assert_eq!(filled("$${SET} costs $5").unwrap(), "${SET} costs $5");
        assert_eq!(filled("${UNSET}").unwrap_err(), "the environment variable `UNSET` is not set");
        assert_eq!(filled("${SET").unwrap_err(), "`${` has no `}`");
    }
}
