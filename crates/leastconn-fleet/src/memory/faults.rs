//! Faults of the in-memory store, drawn from a seed.

use std::time::Duration;

/// Probabilities, for each request. Zero: the fault does not occur.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub seed: u64,
    /// The request does not arrive.
    pub lost: f64,
    /// The request is applied, but its answer does not arrive.
    pub answer_lost: f64,
    /// The request is applied twice.
    pub duplicated: f64,
    /// The request arrives up to `max_delay` later, when the member has given it up.
    pub delayed: f64,
    pub max_delay: Duration,
    /// The server restarts without its data.
    pub restart: f64,
    /// The server loses what was written since the last replication.
    pub failover: f64,
    /// The replica receives all writes. With `failover` and no `replication`, a failover loses
    /// everything since [`MemoryServer::replicate`](super::MemoryServer::replicate).
    pub replication: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Lost,
    AnswerLost,
    Duplicated,
    Delayed(Duration),
    Restart,
    FailOver,
    Replication,
}

#[derive(Debug, Default)]
pub(super) struct FaultSchedule {
    faults: Faults,
    state: u64,
    /// One more than the requests until one is lost. Zero: no request is lost.
    lost_in: u32,
}

impl FaultSchedule {
    pub(super) fn new(faults: Faults) -> Self {
        Self {
            faults,
            state: faults.seed,
            lost_in: 0,
        }
    }

    /// What happens to the server before a request.
    pub(super) fn server_faults(&mut self) -> Vec<Fault> {
        let faults = self.faults;
        let possible = [
            (faults.restart, Fault::Restart),
            (faults.failover, Fault::FailOver),
            (faults.replication, Fault::Replication),
        ];
        let drawn = possible
            .into_iter()
            .filter(|(probability, _)| self.draw(*probability));
        drawn.map(|(_, fault)| fault).collect()
    }

    #[cfg(test)]
    pub(super) fn lose(&mut self, number: u32) {
        self.lost_in = number + 1;
    }

    /// What happens to a request.
    pub(super) fn request_fault(&mut self) -> Option<Fault> {
        self.lost_in = self.lost_in.saturating_sub(1);
        if self.lost_in == 1 {
            return Some(Fault::Lost);
        }
        let faults = self.faults;
        let delay = faults.max_delay.mul_f64(self.uniform());
        let possible = [
            (faults.lost, Fault::Lost),
            (faults.answer_lost, Fault::AnswerLost),
            (faults.duplicated, Fault::Duplicated),
            (faults.delayed, Fault::Delayed(delay)),
        ];
        let mut drawn = possible
            .into_iter()
            .filter(|(probability, _)| self.draw(*probability));
        drawn.next().map(|(_, fault)| fault)
    }

    fn draw(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.uniform() < probability
    }

    /// SplitMix64, as a number from 0 to 1.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}
