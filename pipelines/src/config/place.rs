//! [`Text`]: the text of a file, and where a byte of it is for people.

use std::ops::Range;

/// The text of a pipeline file and its name.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) name: String,
    pub(super) text: String,
}

/// A place in a text, counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Text {
    pub(super) fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Place { line, column: before.get(start..).unwrap_or("").chars().count() + 1 }
    }

    /// A line by its number, without its end.
    pub(super) fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or("")
    }

    /// The bytes of the file that bytes of a string's value come from; `None` when the value is not what stands there,
    /// because a variable was filled in.
    pub(super) fn within(&self, string: &Range<usize>, value: &str, within: &Range<usize>) -> Option<Range<usize>> {
        let raw = self.text.get(string.clone())?;
        let quotes = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| raw.starts_with(quotes))?;
        let mut inner = raw.get(quotes.len()..raw.len().checked_sub(quotes.len())?)?;
        if quotes.len() == 3 {
            // A line end right behind three quotes does not count.
            inner = inner.strip_prefix("\r\n").or_else(|| inner.strip_prefix('\n')).unwrap_or(inner);
        }
        let start = string.end - quotes.len() - inner.len();
        let pieces = if quotes.starts_with('"') { unescaped(inner) } else { plain(inner) };
        let read: String = pieces.iter().filter_map(|(_, c)| *c).collect();
        if read != value {
            return None;
        }
        // The place in the file of each byte of the value, and one behind the last.
        let mut at = Vec::with_capacity(value.len() + 1);
        for (place, c) in &pieces {
            at.extend(std::iter::repeat_n(start + place, c.map_or(0, char::len_utf8)));
        }
        at.push(start + inner.len());
        let (from, to) = (*at.get(within.start)?, *at.get(within.end.min(value.len()))?);
        Some(from..to.max(from))
    }
}

/// The characters of a string's value, each with the byte of the text that it begins at; `None` for what leaves no trace.
type Pieces = Vec<(usize, Option<char>)>;

fn plain(inner: &str) -> Pieces {
    inner.char_indices().map(|(at, c)| (at, Some(c))).collect()
}

/// Escapes of TOML's basic strings (<https://toml.io/en/v1.1.0#string>).
fn unescaped(inner: &str) -> Pieces {
    let mut pieces = Vec::new();
    let mut rest = inner.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        if c != '\\' {
            pieces.push((at, Some(c)));
            continue;
        }
        let Some((_, escape)) = rest.next() else { break };
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c if c.is_whitespace() => {
                // A line's end behind a backslash swallows what space follows.
                while rest.next_if(|(_, c)| c.is_whitespace()).is_some() {}
                continue;
            }
            _ => 0,
        };
        let hex: String = std::iter::from_fn(|| rest.next()).take(digits).map(|(_, c)| c).collect();
        let read = match escape {
            'b' => Some('\u{8}'),
            't' => Some('\t'),
            'n' => Some('\n'),
            'f' => Some('\u{c}'),
            'r' => Some('\r'),
            'e' => Some('\u{1b}'),
            'x' | 'u' | 'U' => u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32),
            other => Some(other),
        };
        pieces.push((at, read));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(text: &'a str, value: &str, part: &str) -> Option<&'a str> {
        let held = Text { name: String::new(), text: text.to_owned() };
        let start = value.find(part).unwrap();
        held.within(&(0..text.len()), value, &(start..start + part.len())).map(|range| &text[range])
    }

    #[test]
    fn a_part_of_a_string_is_found_where_it_stands() {
        assert_eq!(found("\"amount > 1\"", "amount > 1", "amount"), Some("amount"));
        assert_eq!(found("'a > 1'", "a > 1", "1"), Some("1"));
        assert_eq!(found("\"\"\"\na\nor bb\"\"\"", "a\nor bb", "bb"), Some("bb"));
        assert_eq!(found(r#""\"x\" > y""#, "\"x\" > y", "y"), Some("y"));
        assert_eq!(found(r#""\"x\" > y""#, "\"x\" > y", "\"x"), Some(r#"\"x"#));
        assert_eq!(found("\"\\u00e9 + a\"", "é + a", "a"), Some("a"));
        assert_eq!(found("\"\"\"a \\\n   b\"\"\"", "a b", "b"), Some("b"));
        assert_eq!(found("\"${X} > 1\"", "5 > 1", "5"), None, "a variable was filled in");
    }

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = Text { name: String::new(), text: "a\nöb\n".to_owned() };
        assert_eq!(text.place(0), Place { line: 1, column: 1 });
        assert_eq!(text.place(4), Place { line: 2, column: 2 });
        assert_eq!(text.place(99), Place { line: 3, column: 1 });
        assert_eq!(text.line(2), "öb");
    }
}
