use super::*;

/// A waiting connection with a number and a selector.
#[derive(Debug, PartialEq, Eq)]
struct One(u32, SelectorKey);

impl Queued for One {
    fn key(&self) -> SelectorKey {
        self.1
    }
}

fn one(number: u32) -> One {
    One(number, SelectorKey::default())
}

fn client(name: &str) -> ClientId {
    name.into()
}

/// Serves all connections in order, and returns their numbers.
fn serve_all(order: &mut FairOrder<One>) -> Vec<u32> {
    let mut served = Vec::new();
    let mut turn = order.first_turn();
    while let Some(at) = turn {
        let ticket = order.line(at).next().unwrap().0;
        served.push(order.take_turn(at, ticket).unwrap().0);
        turn = order.turn_after(at);
    }
    served
}

#[test]
fn clients_are_served_in_turn() {
    let mut order = FairOrder::default();
    for (name, number) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
        order.push(Some(client(name)), one(number));
    }
    order.push(None, one(7));
    assert_eq!(order.len(), 7);
    assert_eq!(serve_all(&mut order), [1, 4, 5, 7, 2, 6, 3]);
    assert!(order.is_empty() && order.first_turn().is_none());
    assert!(order.lengths.is_empty() && order.selectors.is_empty());
}

#[test]
fn served_client_waits_for_the_others() {
    let mut order = FairOrder::default();
    let ticket = order.push(Some(client("a")), one(1));
    order.push(Some(client("a")), one(2));
    order.push(Some(client("b")), one(3));
    let turn = order.first_turn().unwrap();
    assert_eq!(order.take_turn(turn, ticket), Some(one(1)));
    assert_eq!(serve_all(&mut order), [3, 2]);
}

#[test]
fn leaving_connection_keeps_the_turn_of_its_client() {
    let mut order = FairOrder::default();
    let a = client("a");
    let first = order.push(Some(a.clone()), one(1));
    order.push(Some(a.clone()), one(2));
    order.push(Some(client("b")), one(3));
    assert_eq!(order.remove(Some(&a), first), Some(one(1)));
    assert_eq!(order.remove(Some(&a), first), None);
    assert_eq!(serve_all(&mut order), [2, 3]);
}

#[test]
fn longest_line_gives_way() {
    let mut order = FairOrder::default();
    let (a, b) = (client("a"), client("b"));
    for number in 1..=4 {
        order.push(Some(a.clone()), one(number));
    }
    // `a` loses its newest connection until both clients have the same number.
    for (number, displaced) in [(5, 4), (6, 3)] {
        let ticket = order.push(Some(b.clone()), one(number));
        assert_eq!(order.displace_for(Some(&b), ticket), Some(one(displaced)));
    }
    let ticket = order.push(Some(b.clone()), one(7));
    assert_eq!(order.displace_for(Some(&b), ticket), Some(one(7)));
    let ticket = order.push(Some(a.clone()), one(8));
    assert_eq!(order.displace_for(Some(&a), ticket), Some(one(8)));
    assert_eq!(serve_all(&mut order), [1, 5, 2, 6]);
}
