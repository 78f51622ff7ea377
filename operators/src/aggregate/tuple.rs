//! Several aggregates at once.

use super::Aggregate;
use crate::{Timestamp, Versions};

macro_rules! tuples {
    ($(($($part:ident $at:tt),+))*) => {$(
        impl<T, $($part: Aggregate<T>),+> Aggregate<T> for ($($part,)+) {
            type State = ($($part::State,)+);
            type Out = ($($part::Out,)+);

            fn start(&self) -> Self::State {
                ($(self.$at.start(),)+)
            }

            fn add(&self, state: &mut Self::State, row: &T, time: Timestamp) {
                $(self.$at.add(&mut state.$at, row, time);)+
            }

            fn merge(&self, state: &mut Self::State, other: &Self::State) {
                $(self.$at.merge(&mut state.$at, &other.$at);)+
            }

            fn result(&self, state: &Self::State) -> Self::Out {
                ($(self.$at.result(&state.$at),)+)
            }

            fn shape(&self) -> String {
                format!("({})", [$(self.$at.shape()),+].join(", "))
            }

            /// What is kept is that of all of them: say of all of them how it was before.
            fn versions(&self) -> Versions<Self::State> {
                // Another one where any of them is another.
                Versions::new([$(self.$at.versions().version()),+].into_iter().fold(1, |sum, version| sum + version - 1))
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::super::{Aggregate, count, max, sum};

    #[test]
    fn each_part_gives_what_it_gives_alone() {
        let all = (count(), sum(|n: &i64| *n), max(|n: &i64| *n));
        assert_eq!(of(&all, &[4, 1, 3]), (3, 8, Some(4)));
        assert_eq!(Aggregate::<i64>::shape(&all), "(Count, Sum, Max)");
    }
}
