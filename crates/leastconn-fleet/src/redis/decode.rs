//! Replies of scripts.

use std::time::Duration;

use ::redis::Value;

use super::failure::Failure;
use crate::{
    exchange::{Answer, BeatAnswer, MemberAnswer, Rejected, Request},
    keys::ServerKey,
    member::MemberId,
    view::{ClientView, SlotView},
};

/// `values` has a reply for each script that the request needs.
pub(super) fn answer(request: &Request, values: Vec<Value>) -> Result<Answer, Failure> {
    let mut values = values.into_iter();
    let mut next = || {
        let value = values
            .next()
            .ok_or_else(|| Failure::unexpected("EVALSHA"))?;
        Failure::check(value)
    };
    let rejected = match &request.operate {
        Some(_) => list(next()?)?
            .into_iter()
            .map(rejected)
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let beat = beat(next()?)?;
    let clients = match &request.limit {
        Some(limit) => {
            let mut views = each(next()?, limit.batch.clients.len(), client)?;
            for (view, report) in views.iter_mut().zip(&limit.batch.clients) {
                // The script never returns more. Without the bound, an invalid value in the store
                // could refuse a client forever.
                view.used = view.used.clamp(0.0, 2.0 * f64::from(report.burst));
            }
            views
        }
        None => Vec::new(),
    };
    let slots = match &request.slots {
        Some(slots) => {
            let views = each(next()?, slots.claims.len(), numbers::<3>)?;
            let servers = slots.claims.iter().map(|claim| claim.server);
            let views = servers.zip(views);
            let views = views.map(|(server, numbers)| slot(server, numbers));
            views.collect()
        }
        None => Vec::new(),
    };
    Ok(Answer {
        rejected,
        beat,
        clients,
        slots,
    })
}

fn beat(value: Value) -> Result<BeatAnswer, Failure> {
    let [
        now,
        previous,
        has_counts,
        has_facts,
        members,
        operators,
        events,
        last_event,
        settles,
    ] = array(value)?;
    let members = list(members)?.into_iter().map(member);
    let operators = match operators {
        Value::Nil => None,
        value => {
            let [version, fields] = array(value)?;
            let texts = list(fields)?.into_iter().map(text);
            let texts = texts.collect::<Result<Vec<_>, _>>()?;
            let entries = texts.chunks_exact(2).filter(|pair| pair[0] != "v");
            let entries = entries.map(|pair| (pair[0].clone(), pair[1].clone()));
            Some((text(version)?, entries.collect()))
        }
    };
    let events = list(events)?.into_iter().map(text);
    Ok(BeatAnswer {
        now: number(&now)?,
        previous: number(&previous)?,
        has_counts: number(&has_counts)? == 1,
        has_facts: number(&has_facts)? == 1,
        members: members.collect::<Result<_, _>>()?,
        operators,
        events: events.collect::<Result<_, _>>()?,
        last_event: text(last_event)?,
        settles: number(&settles)? == 1,
    })
}

fn rejected(value: Value) -> Result<Rejected, Failure> {
    let [field, found, digest] = array(value)?;
    Ok(Rejected {
        field: text(field)?,
        text: text(found)?,
        digest: text(digest)?,
    })
}

fn member(value: Value) -> Result<MemberAnswer, Failure> {
    let [id, heard, counts, facts] = array(value)?;
    Ok(MemberAnswer {
        id: MemberId::from_store(text(id)?),
        heard: number(&heard)?,
        counts: blob(counts)?,
        facts: blob(facts)?,
    })
}

fn client(value: Value) -> Result<ClientView, Failure> {
    let [granted, used, others, wait] = array(value)?;
    let used: f64 = text(used)?.parse().map_err(|_| invalid())?;
    if used.is_nan() {
        return Err(invalid());
    }
    Ok(ClientView {
        granted: small(number(&granted)?),
        used,
        others_open: small(number(&others)?),
        retry_after: Duration::from_micros(number(&wait)?),
    })
}

fn slot(server: ServerKey, [held, free, unmet]: [u64; 3]) -> SlotView {
    let held = small(held);
    SlotView {
        server,
        held,
        // The sum of both is a number of slots too.
        free: small(free).min(u32::MAX - held),
        unmet: small(unmet),
    }
}

fn each<T>(
    value: Value,
    length: usize,
    decode: impl Fn(Value) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let values = list(value)?;
    if values.len() != length {
        return Err(invalid());
    }
    values.into_iter().map(decode).collect()
}

fn numbers<const N: usize>(value: Value) -> Result<[u64; N], Failure> {
    let mut numbers = [0; N];
    for (number_out, value) in numbers.iter_mut().zip(array::<N>(value)?) {
        *number_out = number(&value)?;
    }
    Ok(numbers)
}

fn array<const N: usize>(value: Value) -> Result<[Value; N], Failure> {
    list(value)?.try_into().map_err(|_| invalid())
}

fn list(value: Value) -> Result<Vec<Value>, Failure> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(invalid()),
    }
}

fn number(value: &Value) -> Result<u64, Failure> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| invalid()),
        Value::BulkString(bytes) => {
            let text = str::from_utf8(bytes).map_err(|_| invalid())?;
            text.parse().map_err(|_| invalid())
        }
        _ => Err(invalid()),
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn text(value: Value) -> Result<String, Failure> {
    match value {
        // Text of which a part is replaced has no valid signature, so it is counted and ignored.
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => Ok(text),
        _ => Err(invalid()),
    }
}

fn blob(value: Value) -> Result<Option<Vec<u8>>, Failure> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(invalid()),
    }
}

fn invalid() -> Failure {
    Failure::unexpected("EVALSHA")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_can_be_added() {
        for numbers in [[u64::MAX; 3], [u64::from(u32::MAX), 1, 0], [1, u64::MAX, 0]] {
            let view = slot(ServerKey(1), numbers);
            assert_eq!(view.held.checked_add(view.free), Some(u32::MAX));
        }
    }
}
