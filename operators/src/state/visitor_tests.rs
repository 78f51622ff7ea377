//! What a visitor does.

use std::collections::BTreeMap;

use super::{Frozen, Keyed, Panes, Saved, StateVisitor};
use crate::FaultKind;

#[test]
fn what_was_not_saved_is_left_as_it_is() {
    let mut value = 5u8;
    StateVisitor::restore(&Saved::default()).value("n", &mut value).unwrap();
    assert_eq!(value, 5);
}

#[test]
fn a_list_names_pieces_that_hold_nothing_yet_and_changes_none() {
    let (mut names, mut value, mut panes) = (Vec::new(), 7u8, Panes::<u64, u64>::of(10));
    let mut visit = StateVisitor::list(&mut names);
    visit.value("n", &mut value).unwrap();
    visit.panes("panes", &mut panes).unwrap();
    visit.times("times", &mut BTreeMap::new()).unwrap();
    assert_eq!((names, value), (["n", "panes", "times"].map(str::to_owned).to_vec(), 7));
}

#[test]
fn a_value_of_another_type_is_a_fault_that_names_it() {
    let mut frozen = Frozen::default();
    StateVisitor::freeze(&mut frozen).value("n", &mut String::from("seven")).unwrap();
    let saved = frozen.encode(128).unwrap();
    let fault = StateVisitor::restore(&saved).value("n", &mut 0u64).unwrap_err();
    assert_eq!((fault.kind(), fault.to_string().contains("`n`")), (FaultKind::Checkpoint, true));
}

#[test]
fn keyed_state_of_another_type_is_a_fault_that_names_it() {
    let mut frozen = Frozen::default();
    let mut words: Keyed<u64, String> = [(1, "one".to_owned())].into_iter().collect();
    StateVisitor::freeze(&mut frozen).keyed("words", &mut words).unwrap();
    let saved = frozen.encode(128).unwrap();
    let fault = StateVisitor::restore(&saved).keyed("words", &mut Keyed::<u64, u64>::default()).unwrap_err();
    assert!(fault.to_string().contains("`words`"), "{fault}");
}
