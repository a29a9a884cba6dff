use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::message::{Destination, Headers, PublishOptions};

fn message(body: &'static str, expiration: Option<&str>) -> Arc<Message> {
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
