//! [`judge_order`]: what comes of a key comes in the order of its events, whoever gives it and however often (P8).

use std::collections::BTreeMap;

/// What is wrong with the order in which things of a key came first, which are numbered as they are `due`. A repeat may come
/// at any time: whoever goes on from a checkpoint goes on behind what is stored already, without leaving anything out.
pub(super) fn judge_order(
    what: &str,
    due: &BTreeMap<u64, Vec<u64>>,
    there: impl Iterator<Item = (u64, u64)>,
) -> Result<(), String> {
    let mut reached = BTreeMap::<u64, usize>::new();
    for (key, number) in there {
        let Some(place) = due.get(&key).and_then(|due| due.iter().position(|known| *known == number)) else { continue };
        let reached = reached.entry(key).or_default();
        if place > *reached {
            let before = due.get(&key).and_then(|due| due.get(*reached));
            return Err(format!("P8: {what} {number} of key {key} comes before {before:?}"));
        }
        *reached = (*reached).max(place + 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_may_come_at_any_time_and_nothing_may_be_left_out() {
        let due = BTreeMap::from([(1, vec![10, 20, 30])]);
        let judge = |all: &[u64]| judge_order("row", &due, all.iter().map(|number| (1, *number)));
        assert_eq!(judge(&[10, 20, 10, 20, 30]), Ok(()));
        assert_eq!(judge(&[10, 99, 20]), Ok(()), "what is not due is none of its business");
        assert!(judge(&[10, 30, 20]).is_err());
        assert!(judge(&[20]).is_err());
    }
}
