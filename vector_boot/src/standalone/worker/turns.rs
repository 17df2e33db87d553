//! Which waiting message is handled next: connections take turns, one message at a time.

/// Places of connections: bit n stands for place n.
pub type Places = u32;

/// What the second thread runs. A place is where a connection stands among all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// Nothing.
    Nothing,
    /// A computation that only reads the weights, for the connection in this place; `None` if it has ended.
    Beside(Option<usize>),
    /// Something that may change the weights, or that its own connections, in these places, wait for.
    Alone(Places),
}

/// How a waiting message behaves while the second thread is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It overtakes a run, and what waits behind the run.
    Passes,
    /// It neither changes weights nor takes long, so it can be handled beside a run of another connection.
    Reads,
    /// It waits until nothing runs.
    Waits,
    /// It waits until a request before it on its connection has been answered, which is done outside this process.
    Held,
}

/// A message to be handled: the place of its connection, and its position in that connection's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Place of the connection.
    pub place: usize,
    /// Position in its queue.
    pub position: usize,
}

/// Whose turn it is. While something runs, turns are counted apart: messages that are handled meanwhile must not cost a
/// connection its turn for the next run.
#[derive(Debug, Default)]
pub struct Turns {
    /// The place that is asked first while nothing runs.
    idle: usize,
    /// The place that is asked first while something runs.
    busy: usize,
}

impl Turns {
    /// The next message to handle; `None` if none may be handled now. `class` gives the message at a position of a place's
    /// queue, `None` behind its end and for a connection that must not be answered now.
    pub fn next(
        &mut self,
        places: usize,
        running: Running,
        class: impl Fn(usize, usize) -> Option<Class>,
    ) -> Option<Turn> {
        let first = if running == Running::Nothing { &mut self.idle } else { &mut self.busy };
        let turn = (0..places).map(|step| (*first + step) % places).find_map(|place| {
            let position = eligible(running, place, &|position| class(place, position))?;
            Some(Turn { place, position })
        })?;
        *first = (turn.place + 1) % places;
        Some(turn)
    }
}

/// The position of the message of one place that may be handled now.
fn eligible(running: Running, place: usize, class: &dyn Fn(usize) -> Option<Class>) -> Option<usize> {
    let first = class(0)?;
    let passing = || (0..).map_while(class).position(|class| class == Class::Passes);
    match running {
        _ if first == Class::Held => passing(),
        Running::Nothing => Some(0),
        Running::Alone(owners) if owners >> place & 1 == 1 => None,
        Running::Beside(owner) if owner != Some(place) && first != Class::Waits => Some(0),
        Running::Beside(_) | Running::Alone(_) => passing(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::Class::{Held, Passes, Reads, Waits};
    use super::*;

    struct Queues(Vec<VecDeque<Class>>);

    impl Queues {
        fn of(queues: &[&[Class]]) -> Self {
            Queues(queues.iter().map(|queue| queue.iter().copied().collect()).collect())
        }

        fn take(&mut self, turns: &mut Turns, running: Running) -> Option<(usize, Class)> {
            let turn = turns.next(self.0.len(), running, |place, position| self.0[place].get(position).copied())?;
            Some((turn.place, self.0[turn.place].remove(turn.position).unwrap()))
        }

        fn places(&mut self, turns: &mut Turns, running: Running) -> Vec<usize> {
            std::iter::from_fn(|| self.take(turns, running)).map(|(place, _)| place).collect()
        }
    }

    #[test]
    fn a_long_queue_delays_a_short_one_by_one_message() {
        let mut queues = Queues::of(&[&[Reads; 50], &[Reads; 2], &[], &[Waits, Reads]]);
        let order = queues.places(&mut Turns::default(), Running::Nothing);
        assert_eq!(order[..6], [0, 1, 3, 0, 1, 3]);
        assert_eq!(order.len(), 54);
    }

    #[test]
    fn runs_of_several_connections_take_turns_whatever_passes_meanwhile() {
        let mut queues = Queues::of(&[&[Waits; 3], &[Waits; 3], &[Passes; 9]]);
        let mut turns = Turns::default();
        let mut runs = Vec::new();
        while let Some((place, class)) = queues.take(&mut turns, Running::Nothing) {
            if class == Waits {
                runs.push(place);
                while queues.take(&mut turns, Running::Beside(Some(place))).is_some() {}
            }
        }
        assert_eq!(runs, [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn what_is_handled_during_a_run() {
        let all = [Waits, Reads, Passes];
        let queues = || Queues::of(&[&all, &all, &[Reads, Waits, Passes]]);
        let during = |running| {
            let (mut turns, mut queues) = (Turns::default(), queues());
            let mut taken: Vec<_> = std::iter::from_fn(|| queues.take(&mut turns, running)).collect();
            taken.sort_by_key(|(place, _)| *place);
            taken
        };
        assert_eq!(during(Running::Beside(Some(0))), [(0, Passes), (1, Passes), (2, Reads), (2, Passes)]);
        assert_eq!(during(Running::Alone(1)), [(1, Passes), (2, Passes)]);
        assert_eq!(during(Running::Alone(0b101)), [(1, Passes)]);
        assert_eq!(during(Running::Alone(0)), [(0, Passes), (1, Passes), (2, Passes)]);
    }

    #[test]
    fn what_is_held_waits_and_holds_nobody_else() {
        for running in [Running::Nothing, Running::Beside(Some(1)), Running::Alone(0)] {
            let mut queues = Queues::of(&[&[Held, Held, Passes, Held], &[Passes]]);
            let mut turns = Turns::default();
            let taken: Vec<_> =
                std::iter::from_fn(|| queues.take(&mut turns, running)).map(|(_, class)| class).collect();
            assert_eq!(taken, [Passes; 2], "{running:?}");
        }
    }

    #[test]
    fn a_connection_that_must_not_be_answered_is_passed_over() {
        let class = |place, position| (place != 0 && position == 0).then_some(Reads);
        assert_eq!(Turns::default().next(2, Running::Nothing, class), Some(Turn { place: 1, position: 0 }));
        assert_eq!(Turns::default().next(0, Running::Nothing, class), None);
    }

    fn class() -> impl Strategy<Value = Class> {
        prop_oneof![Just(Passes), Just(Reads), Just(Waits)]
    }

    proptest! {
        /// Whatever waits: nothing is lost, no connection gets two turns while another that could be served gets none, and
        /// without runs each connection's messages are handled in order.
        #[test]
        fn turns_are_fair_and_lose_nothing(lengths in vec(0usize..20, 1..16), start in 0usize..16) {
            let mut turns = Turns { idle: start, busy: 0 };
            let mut left = lengths.clone();
            let mut served = vec![0usize; lengths.len()];
            while let Some(turn) = turns.next(left.len(), Running::Nothing, |place, position| {
                (position < left[place]).then_some(Reads)
            }) {
                prop_assert_eq!(turn.position, 0);
                left[turn.place] -= 1;
                served[turn.place] += 1;
                for (place, waiting) in left.iter().enumerate() {
                    prop_assert!(*waiting == 0 || served[place] + 1 >= served[turn.place]);
                }
            }
            prop_assert_eq!(served, lengths);
        }

        /// During a run, whatever passes is found, and nothing that must wait is handled.
        #[test]
        fn during_a_run_only_the_right_messages_are_handled(
            queues in vec(vec(class(), 0..9), 1..16),
            owner in proptest::option::of(0usize..16),
            beside: bool,
        ) {
            let owner = owner.filter(|owner| *owner < queues.len());
            let owners = owner.map_or(0, |owner| 1 << owner);
            let running = if beside { Running::Beside(owner) } else { Running::Alone(owners) };
            let mut waiting = Queues(queues.into_iter().map(VecDeque::from).collect());
            let mut turns = Turns::default();
            while let Some((place, class)) = waiting.take(&mut turns, running) {
                prop_assert!(class != Waits);
                prop_assert!(class == Passes || (beside && owner != Some(place)));
                prop_assert!(beside || owner != Some(place));
            }
            for (place, queue) in waiting.0.iter().enumerate() {
                prop_assert!(!queue.contains(&Passes) || (!beside && owner == Some(place)));
            }
        }
    }
}
