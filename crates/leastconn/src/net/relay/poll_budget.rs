//! How much a connection may carry before others have their turn.
//!
//! A stream costs least with large turns, and whoever waits behind it waits for as
//! long as one takes. So turns are large where streams are among themselves, and
//! short while connections of the same worker carry short exchanges. Bytes of a
//! stream that wait in the system to be sent are bounded then as well: sending them
//! later is the system's work, done in bursts that keep everybody else on the
//! processor waiting for milliseconds. That costs a stream up to a half more, and
//! so it is not for always.

use std::cell::Cell;

use super::SCRATCH;

/// A short turn.
const SHORT: usize = SCRATCH / 4;

/// A poll that carries more is one of a stream.
const EXCHANGE: u64 = 16 * 1024;

/// Turns for which what was seen last is believed to go on.
const MEMORY: u32 = 64;

thread_local! {
    /// Short exchanges that connections of this worker have carried.
    static EXCHANGES: Cell<u32> = const { Cell::new(0) };
}

/// One connection's turns.
#[derive(Default)]
pub(super) struct Turns {
    /// What `EXCHANGES` was at the last turn.
    seen: u32,
    /// Turns that are short still.
    short: u32,
    /// Turns after which it is no stream any more.
    stream: u32,
    /// Where little was carried last.
    way: Way,
}

/// Where bytes went. An exchange goes to and fro; what goes one way only is a slow
/// stream, which nobody waits for an answer to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Back,
    Forth,
    Both,
}

impl Turns {
    /// Bytes for the turn that comes.
    pub(super) fn room(&mut self) -> usize {
        let exchanges = EXCHANGES.get();
        if exchanges != self.seen {
            self.seen = exchanges;
            self.short = MEMORY;
        }
        match self.short.checked_sub(1) {
            Some(left) => {
                self.short = left;
                SHORT
            }
            None => SCRATCH,
        }
    }

    /// So much was carried in it: to the server, and to the client.
    pub(super) fn carried(&mut self, [forth, back]: [u64; 2]) {
        if forth.max(back) > EXCHANGE {
            self.stream = MEMORY;
            return;
        }
        let way = match (forth, back) {
            (0, 0) => return,
            (_, 0) => Way::Forth,
            (0, _) => Way::Back,
            _ => Way::Both,
        };
        let is_answer = way == Way::Both || way != self.way;
        self.way = way;
        // A stream's little pieces are no exchanges.
        match self.stream.checked_sub(1) {
            Some(left) => self.stream = left,
            None if is_answer => {
                self.seen = EXCHANGES.get().wrapping_add(1);
                EXCHANGES.set(self.seen);
            }
            None => {}
        }
    }

    /// Whether a turn with so much room is a short one.
    pub(super) const fn is_short(room: usize) -> bool {
        room < SCRATCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_among_themselves_have_large_turns() {
        let (mut a, mut b) = (Turns::default(), Turns::default());
        for round in 0..1000 {
            for stream in [&mut a, &mut b] {
                assert_eq!(stream.room(), SCRATCH);
                // Now and then little is there.
                stream.carried([0, if round % 10 == 3 { 100 } else { 128 * 1024 }]);
            }
        }
    }

    #[test]
    fn beside_exchanges_a_stream_s_turns_are_short_for_a_while() {
        let (mut stream, mut exchange) = (Turns::default(), Turns::default());
        stream.carried([0, 128 * 1024]);
        exchange.room();
        exchange.carried([64, 0]);
        exchange.carried([0, 64]);
        for _ in 0..MEMORY {
            assert_eq!(stream.room(), SHORT);
            stream.carried([0, 32 * 1024]);
        }
        assert_eq!(stream.room(), SCRATCH);
        exchange.room();
        exchange.carried([64, 0]);
        exchange.carried([0, 64]);
        assert_eq!(stream.room(), SHORT);
    }

    #[test]
    fn an_exchange_does_not_shorten_its_own_turns() {
        let mut exchange = Turns::default();
        for _ in 0..10 {
            assert_eq!(exchange.room(), SCRATCH);
            exchange.carried([64, 0]);
            exchange.carried([0, 64]);
        }
    }

    #[test]
    fn what_trickles_one_way_is_no_exchange() {
        let (mut stream, mut trickle) = (Turns::default(), Turns::default());
        for _ in 0..1000 {
            trickle.room();
            trickle.carried([0, 1000]);
            assert_eq!(stream.room(), SCRATCH);
            stream.carried([0, 128 * 1024]);
        }
    }

    #[test]
    fn nothing_carried_says_nothing() {
        let (mut stream, mut idle) = (Turns::default(), Turns::default());
        idle.room();
        idle.carried([0, 0]);
        assert_eq!(stream.room(), SCRATCH);
    }
}
