//! Relays between two scripted streams, with sequences of bytes as the model.
#![no_main]

#[path = "../../crates/leastconn/tests/support/scripted.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod scripted;

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use leastconn::net::OnTruncation;
use scripted::{End, Script, Step, Take, check};

#[derive(Debug)]
struct Input {
    client: Script,
    server: Script,
    policy: OnTruncation,
    /// The number of polls after which the relay is dropped.
    polls: Option<u32>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self {
            policy: *u.choose(&[OnTruncation::Reset, OnTruncation::Close])?,
            polls: u.arbitrary::<Option<u8>>()?.map(u32::from),
            client: script(u)?,
            server: script(u)?,
        })
    }
}

fn script(u: &mut Unstructured<'_>) -> arbitrary::Result<Script> {
    Ok(Script {
        end: *u.choose(&[End::Orderly, End::Reset, End::Truncated, End::Broken, End::Silent])?,
        take: *u.choose(&[Take::All, Take::Closed, Take::Reset, Take::Broken, Take::Stuck])?,
        reads: steps(u)?,
        writes: steps(u)?,
    })
}

fn steps(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Step>> {
    let count = u.int_in_range(0..=24)?;
    (0..count)
        .map(|_| {
            Ok(match u.int_in_range(0..=3)? {
                0 => Step::Bytes(u16::from(u.arbitrary::<u8>()?)),
                1 => Step::Bytes(u.arbitrary()?),
                2 => Step::Wait,
                // All pauses together are shorter than any of the timeouts.
                _ => Step::Pause(Duration::from_millis(u.int_in_range(1..=99)?)),
            })
        })
        .collect()
}

libfuzzer_sys::fuzz_target!(|input: Input| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(check(&input.client, &input.server, input.policy, input.polls));
});
