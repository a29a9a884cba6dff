//! What frames mean: SENDs that ask for receipts, and the broker's answers.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use stompgate::access::Rules;
use stompgate::chain::{self, Chain};
use stompgate::message::{Capabilities, Outcome, Principal, Separators};
use stompgate::session::{Action, Done, Input, Session, Settings, Ticket};
use stompgate::stomp::{Decoder, Item};

use crate::Piece;
use crate::codec::{decoder, send};

const FRAMES: u64 = 1000;

/// SEND frames with receipts, in an open session.
pub fn receipts() -> Piece {
    let now = Instant::now();
    let (settings, rules) = (Arc::new(Settings::default()), Arc::new(Rules::open()));
    let handlers = Arc::new(Chain::new(Vec::new(), &chain::Settings::default()));
    let mut session = Session::new("s-1".into(), settings, Separators::Both, handlers, rules, now);
    let mut decoder = decoder();
    let mut actions = Vec::new();
    decoder.push("CONNECT\naccept-version:1.2\nhost:localhost\nlogin:alice\npasscode:secret\n\n\0".into());
    session.handle(frame(&mut decoder), now, &mut actions);
    let ticket = ticket(&actions);
    let welcome = Done::Authenticated(Principal::new("alice"), capabilities());
    session.handle(Input::Done(ticket, Ok(welcome)), now, &mut actions);
    assert!(session.is_connected(), "the session is open");

    let bytes = send(256);
    Piece::new(FRAMES, move || {
        for _ in 0..FRAMES {
            decoder.push(bytes.clone());
            actions.clear();
            session.handle(frame(&mut decoder), now, &mut actions);
            let ticket = self::ticket(&actions);
            session.handle(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))), now, &mut actions);
            assert!(matches!(black_box(&actions)[..], [Action::Publish(..), Action::Send(_)]), "SEND, RECEIPT");
        }
    })
}

/// What the embedded broker can do.
fn capabilities() -> Capabilities {
    Capabilities {
        exchanges: false,
        arguments: false,
        retain: true,
        durable: true,
        atomic_transactions: true,
        user_id: false,
        reports_unrouted: true,
        keeps_queues: true,
    }
}

fn frame(decoder: &mut Decoder) -> Input {
    match decoder.next() {
        Ok(Some(Item::Frame(frame))) => Input::Frame(frame),
        other => panic!("a frame was pushed, and {other:?} came"),
    }
}

/// What the last action is to be answered by.
fn ticket(actions: &[Action]) -> Ticket {
    match actions.last() {
        Some(Action::Authenticate(ticket, _) | Action::Publish(ticket, _)) => *ticket,
        other => panic!("an action with a ticket was expected, and {other:?} came"),
    }
}
