//! "Did you mean": the known word that is nearest to a misspelt one.

/// The candidate that `word` was probably meant to be, if there is one near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let distances = candidates.into_iter().map(|known| (distance(&known.to_lowercase(), &lower), known));
    // The name decides between equals, as candidates may come in any order.
    let (distance, known) = distances.min()?;
    // A third of the letters may be wrong, but never all of them.
    (distance <= (lower.chars().count() / 3).max(1) && distance < lower.chars().count().max(1)).then_some(known)
}

/// How many letters must be added, dropped, changed or swapped with their neighbour (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut previous = None;
    let at = |row: &[usize], place: usize| row.get(place).copied().unwrap_or(usize::MAX / 2);
    for (i, letter) in from.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let changed = at(&last, j) + usize::from(letter != *other);
            let mut least = changed.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = j > 0 && previous == Some(*other) && to.get(j - 1) == Some(&letter);
            if swapped {
                least = least.min(at(&before_last, j - 1) + 1);
            }
            row.push(least);
        }
        previous = Some(letter);
        before_last = std::mem::replace(&mut last, row);
    }
    at(&last, to.len())
}

/// The way out after a name that is not known: the nearest one, or all of them where they are few.
pub fn did_you_mean<'a>(word: &str, kind: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(word, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    list(kind, known)
}

/// "the columns are `a`, `b`"; of more than two dozen the first eighteen.
pub fn list<'a>(kind: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let names: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    // Where few would be left out, none is.
    let more = if names.len() > 24 { names.len() - 18 } else { 0 };
    let shown: Vec<&str> = names.iter().take(names.len() - more).map(String::as_str).collect();
    match (shown.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("the {kind} are {}", shown.join(", "))),
        (false, more) => Some(format!("the {kind} are {} and {more} more", shown.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (from, to, expected) in
            [("kitten", "sitting", 3), ("ab", "ba", 1), ("", "abc", 3), ("ca", "abc", 3), ("x", "x", 0)]
        {
            assert_eq!((distance(from, to), distance(to, from)), (expected, expected), "{from} {to}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_found_and_nonsense_is_not() {
        let known = ["amount", "customer", "id"];
        assert_eq!(nearest("amuont", known), Some("amount"));
        assert_eq!(nearest("Amount", known), Some("amount"));
        assert_eq!(nearest("ib", known), Some("id"));
        assert_eq!(nearest("nmae", ["name", "raw"]), Some("name"));
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(did_you_mean("q", "columns", known).unwrap(), "the columns are `amount`, `customer`, `id`");
    }

    #[test]
    fn a_list_is_cut_only_where_many_are_left_out() {
        let names: Vec<String> = (10..35).map(|n| n.to_string()).collect();
        let listed = |count| list("kinds", names.iter().take(count).map(String::as_str)).unwrap_or_default();
        assert!(listed(24).ends_with("`32`, `33`"), "{}", listed(24));
        assert!(listed(25).ends_with("`26`, `27` and 7 more"), "{}", listed(25));
        assert_eq!(listed(0), "");
    }
}
