use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::broker::mqtt::address::Address;
use crate::broker::mqtt::connection::Live;
use crate::broker::mqtt::settings::Version;
use crate::broker::mqtt::wire::{self, Driver, Endpoint, Granted, Options};
use crate::message::{Delivery, Destination, Headers, PublishOptions};

pub(super) fn message(body: &'static str, expiration: Option<&str>) -> Arc<Message> {
    let headers = expiration.into_iter().map(|expiration| ("expiration".to_owned(), expiration.to_owned()));
    Arc::new(Message {
        destination: Destination::Queue("q".into()),
        headers: headers.collect::<Headers>(),
        body: Bytes::from_static(body.as_bytes()),
        options: PublishOptions::default(),
    })
}

/// The next message that its reader gets.
fn next(mailbox: &Mailbox) -> Option<Delivery> {
    match mailbox.poll(&mut Context::from_waker(Waker::noop()), 1) {
        Poll::Ready(Event::Delivery(delivery)) => Some(delivery),
        Poll::Ready(other) => panic!("a message was expected, not {other:?}"),
        Poll::Pending => None,
    }
}

fn settle(mailbox: &Mailbox, delivery: &Delivery) {
    assert!(mailbox.settle(&[delivery.id.unwrap()], Settlement::Accept).0);
}

#[tokio::test(start_paused = true)]
async fn what_has_waited_too_long_is_not_delivered() {
    let mailbox = Mailbox::new(1, 10);
    for (body, expiration) in [("1", None), ("2", Some("1000")), ("3", Some("3000"))] {
        mailbox.push(message(body, expiration));
    }
    let first = next(&mailbox).unwrap();
    assert_eq!(first.message.body, "1");
    tokio::time::advance(Duration::from_secs(1)).await;
    settle(&mailbox, &first);
    let third = next(&mailbox).unwrap();
    assert_eq!(third.message.body, "3");
    // It may be settled for as long as its reader likes, but not come again after its time.
    tokio::time::advance(Duration::from_millis(2_500)).await;
    let (_, again) = mailbox.settle(&[third.id.unwrap()], Settlement::Requeue);
    mailbox.put_back(again);
    assert!(next(&mailbox).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_gap_before_what_has_waited_too_long_is_told_with_the_next() {
    let mailbox = Mailbox::new(10, 10);
    mailbox.restored();
    mailbox.push(message("1", Some("1000")));
    tokio::time::advance(Duration::from_secs(2)).await;
    let restored = mailbox.poll(&mut Context::from_waker(Waker::noop()), 1);
    assert!(matches!(restored, Poll::Ready(Event::Restored)));
    assert!(next(&mailbox).is_none());
    mailbox.push(message("2", None));
    assert!(next(&mailbox).unwrap().gap);
}

#[tokio::test(start_paused = true)]
async fn what_is_published_again_has_the_rest_of_its_time() {
    let mailbox = Mailbox::new(1, 10);
    mailbox.push(message("1", Some("1000")));
    mailbox.push(message("2", Some("5000")));
    mailbox.push(message("3", None));
    tokio::time::advance(Duration::from_secs(2)).await;
    let left: Vec<_> = mailbox.take().into_iter().filter_map(Item::into_waiting).collect();
    assert_eq!(left.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [b"2", b"3"]);
    assert_eq!(left[0].options.expiration, Some(Duration::from_secs(3)));
    assert_eq!(left[0].headers.get("expiration").unwrap(), "3000");
    assert_eq!(left[1].options.expiration, None);
}

/// A connection that a driver holds, to nowhere.
fn live(resumed: bool) -> (Arc<Live>, Driver) {
    let endpoint = Endpoint {
        version: Version::V5,
        address: Address::parse("mqtt://localhost").unwrap(),
        tls: None,
        keep_alive: 10,
        connect_timeout: Duration::from_secs(1),
        max_packet: 1_000,
    };
    let options = Options { client_id: "a".to_owned(), lasts: None, receive_maximum: None, is_manual: true };
    let (client, driver) = wire::open(&endpoint, &options).unwrap();
    let granted = Granted {
        receive_maximum: 20,
        max_qos: 2,
        retain: true,
        wildcards: true,
        shared: Some(true),
        identifiers: true,
        resumed,
        keeps_sessions: true,
        max_packet: None,
    };
    (Arc::new(Live { client, granted, generation: 1 }), driver)
}

fn arrives(mailbox: &Mailbox, live: &Arc<Live>, packet: u16, dup: bool, body: &'static str) {
    let arrival = Arrival { packet, dup, qos: 1, ..Arrival::default() };
    mailbox.arrived(live, &arrival, message(body, None), dup);
}

#[tokio::test]
async fn what_is_on_its_way_to_the_dead_letters_does_not_come_again() {
    let ((first, _one), (second, _two), (third, _three)) = (live(false), live(true), live(true));
    let mailbox = Mailbox::after(Remains::default(), 10, 10);
    for (packet, body) in [(1, "given up"), (2, "kept")] {
        arrives(&mailbox, &first, packet, false, body);
    }
    let given_up = next(&mailbox).unwrap();
    let (all, dying) = mailbox.settle(&[given_up.id.unwrap()], Settlement::Reject);
    assert!(all);
    // Not after a cut, and not to the next reader. What nobody has settled does.
    arrives(&mailbox, &second, 1, true, "given up");
    arrives(&mailbox, &second, 2, true, "kept");
    assert_eq!(next(&mailbox).unwrap().message.body, "kept");
    assert!(next(&mailbox).is_none());
    let again = Mailbox::after(mailbox.remains().unwrap(), 10, 10);
    assert!(mailbox.remains().is_none());
    arrives(&mailbox, &second, 3, false, "for the next reader");
    arrives(&again, &third, 1, true, "given up");
    arrives(&again, &third, 2, true, "kept");
    arrives(&again, &third, 3, true, "for the next reader");
    for body in ["kept", "for the next reader"] {
        assert_eq!(next(&again).unwrap().message.body, body);
    }
    assert!(next(&again).is_none());
    // Its end is the session's, whoever reads that.
    mailbox.give_away(&dying);
    let (fourth, _four) = live(true);
    arrives(&again, &fourth, 1, true, "given up");
    assert!(next(&again).is_none());
}
