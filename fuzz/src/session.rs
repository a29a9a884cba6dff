//! Any frames and any answers, in any order, to a session.

mod model;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stompgate::access::Rules;
use stompgate::message::{
    Capabilities, Delivery, DeliveryId, Destination, Handled, Handlers, Headers, Message, Outcome, Principal,
    PublishOptions, Refusal, Separators,
};
use stompgate::session::{Action, Done, Input, Session, Settings, SubscriptionKey, Ticket};
use stompgate::stomp::{Command, Decoder, Item, Limits};

use model::{Awaited, Model};

/// Plays a script to a session, and holds what it does against a model of what any session may do.
///
/// The first byte chooses the settings, what the broker can do, and whether the script begins with a CONNECT that is
/// accepted. Each further step is a letter, and what belongs to it:
///
/// ```text
/// F … NUL    a frame comes, if the session is ready
/// d u h e N  the Nth open ticket is answered: well, unrouted, by a handler, by a refusal
/// m N        a message comes for the Nth subscription
/// i N, r N   what the Nth subscription holds is void: all of it, or up to its first delivery
/// t N        time passes; and the clock looks after it
/// s x g R    shutdown; a subscription ends; the client is gone; the driver refuses
/// ```
///
/// In the end every ticket is answered, and every receipt that was asked for must have come.
pub fn session(data: &[u8]) {
    let [mode, steps @ ..] = data else { return };
    let mut play = Play::new(*mode);
    if mode & 4 != 0 {
        play.frame("CONNECT\naccept-version:1.0,1.1,1.2\n\n\0".as_bytes());
        play.answer(0, b'd');
    }
    let mut steps = steps;
    while let Some((step, rest)) = steps.split_first() {
        steps = play.step(*step, rest);
    }
    play.finish();
}

struct Play {
    session: Session,
    now: Instant,
    model: Model,
    capabilities: Capabilities,
    /// Names that were given out: reply addresses, and bodies.
    given: u64,
}

impl Play {
    fn new(mode: u8) -> Self {
        let settings = if mode & 1 == 0 { Settings::default() } else { narrow() };
        let is_able = mode & 2 == 0;
        let capabilities = Capabilities {
            exchanges: is_able,
            arguments: is_able,
            retain: is_able,
            durable: is_able,
            atomic_transactions: is_able,
            user_id: is_able,
            reports_unrouted: is_able,
            keeps_queues: is_able,
        };
        #[expect(clippy::disallowed_methods, reason = "any instant to begin with; the rest is made up")]
        let now = Instant::now();
        let model = Model::new(settings.clone());
        let (settings, rules) = (Arc::new(settings), Arc::new(Rules::open()));
        let session = Session::new("s-1".into(), settings, Separators::Both, Arc::new(Shop), rules, now);
        Play { session, now, model, capabilities, given: 0 }
    }

    /// Takes a step, and says what comes after it.
    fn step<'a>(&mut self, step: u8, rest: &'a [u8]) -> &'a [u8] {
        let (number, after) = rest.split_first().map_or((0, rest), |(number, after)| (usize::from(number & 15), after));
        match step {
            b'F' => {
                let length = rest.iter().position(|byte| *byte == 0).map_or(rest.len(), |end| end + 1);
                let (frame, after) = rest.split_at(length);
                self.frame(frame);
                return after;
            }
            b'd' | b'u' | b'h' | b'e' => self.answer(number, step),
            b'm' => self.deliver(number),
            b'i' => {
                if let Some(key) = self.model.interrupt(number) {
                    self.input(Input::Interrupted(key));
                }
            }
            b'r' => {
                if let Some((key, last)) = self.model.take_back(number) {
                    self.input(Input::Returned(key, last));
                }
            }
            b't' => self.pass(Duration::from_millis(40) * (1 << number)),
            b's' => {
                self.input(Input::Shutdown);
                return rest;
            }
            b'x' => {
                self.input(Input::SubscriptionEnded(Refusal::not_found("The queue q")));
                return rest;
            }
            b'g' => {
                self.input(Input::Gone);
                assert!(self.session.is_ended(), "without its client there is no session");
                return rest;
            }
            b'R' => {
                self.input(Input::Refused(Refusal::not_utf8()));
                assert!(self.session.is_ended(), "what is refused ends");
                return rest;
            }
            _ => return rest,
        }
        after
    }

    /// What a driver does with bytes: frames are offered while the session is ready.
    fn frame(&mut self, bytes: &[u8]) {
        if !self.session.is_ready() {
            return;
        }
        let mut decoder = Decoder::new(Limits { headers: 30, header_bytes: 2000, body: 2000, frame: None });
        decoder.set_version(self.session.version());
        decoder.push(Bytes::copy_from_slice(bytes));
        while self.session.is_ready() {
            match decoder.next() {
                Ok(Some(Item::Frame(frame))) => {
                    self.model.asks(&frame);
                    self.input(Input::Frame(frame));
                }
                Ok(Some(Item::Heartbeat)) => {}
                Ok(None) => break,
                Err(error) => self.input(Input::Refused(error.into())),
            }
        }
    }

    /// Answers an open ticket.
    fn answer(&mut self, number: usize, how: u8) {
        let Some((ticket, waits)) = self.model.take_ticket(number) else { return };
        let answer = match (waits, how) {
            (_, b'e') => Err(Refusal::rejected("it was asked to")),
            (Awaited::Name, _) => Ok(Done::Authenticated(Principal::new("ada"), self.capabilities)),
            (Awaited::Address, _) => {
                self.given += 1;
                Ok(Done::ReplyAddress(format!("address-{}", self.given).into()))
            }
            (Awaited::Handler, _) | (Awaited::Confirmation, b'h') => Ok(Done::Handled(handled())),
            (_, b'u') => Ok(Done::Outcome(Outcome::UNROUTED)),
            _ => Ok(Done::Outcome(Outcome::DONE)),
        };
        self.done(ticket, answer);
        let mut late = Vec::new();
        self.session.handle(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))), self.now, &mut late);
        assert!(late.is_empty(), "a ticket is answered once: {late:?}");
    }

    fn done(&mut self, ticket: Ticket, answer: Result<Done, Refusal>) {
        self.input(Input::Done(ticket, answer));
    }

    fn deliver(&mut self, number: usize) {
        let Some((key, id)) = self.model.next_delivery(number) else { return };
        let message = message(Destination::Queue("q".into()));
        let delivery = Delivery { message: Arc::new(message), id: Some(id), redelivered: false, gap: false };
        let actions = self.actions(Input::Delivery(key, delivery));
        self.model.delivered(key, id, &actions);
        self.check(actions);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.look_at_the_clock();
        let time = self.session.deadline().filter(|deadline| *deadline > self.now);
        if let Some(deadline) = time {
            self.now = deadline;
            self.look_at_the_clock();
        }
    }

    /// What was due has been done, or the driver would come at once again, and again.
    fn look_at_the_clock(&mut self) {
        self.input(Input::Deadline);
        assert!(self.session.deadline().is_none_or(|next| next > self.now), "what is due stays due");
    }

    fn input(&mut self, input: Input) {
        let actions = self.actions(input);
        self.check(actions);
    }

    fn actions(&mut self, input: Input) -> Vec<Action> {
        let (was_ended, was_sent) = (self.session.is_ended(), matches!(input, Input::Deadline));
        let mut actions = Vec::new();
        self.session.handle(input, self.now, &mut actions);
        assert!(!was_ended || actions.is_empty(), "nothing comes of a session that has ended: {actions:?}");
        if !was_sent && !actions.is_empty() {
            self.session.sent(self.now);
        }
        actions
    }

    fn check(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.model.check(action, self.session.version());
        }
        self.model.check_state(&self.session);
    }

    /// Every answer comes: then no receipt is owed, unless an ERROR said which.
    fn finish(mut self) {
        while self.model.has_tickets() && !self.session.is_ended() {
            self.answer(0, b'd');
        }
        self.model.check_end(&self.session);
        self.input(Input::Gone);
        assert!(self.session.is_ended() && self.session.deadline().is_none() && !self.session.is_ready());
    }
}

/// Limits that a short script can reach.
fn narrow() -> Settings {
    Settings {
        max_subscriptions: 3,
        max_transactions: 2,
        max_transaction_frames: 3,
        max_transaction_bytes: 400,
        max_unconfirmed: 2,
        prefetch: 1,
        max_prefetch: 2,
        max_frames_per_second: 8,
        ..Settings::default()
    }
}

fn message(destination: Destination) -> Message {
    let headers = Headers::from([("type", "a:b\nc")]);
    Message { destination, headers, body: "body".into(), options: PublishOptions::default() }
}

/// A handler that answers the reply address, the user, and whoever asked.
fn handled() -> Handled {
    let name = |name: &str| name.into();
    let replies =
        vec![message(Destination::ReplyQueue(name("address-1"))), message(Destination::Queue(name("elsewhere")))];
    Handled { outcome: Outcome::DONE, replies, status: Some(404) }
}

/// Handlers for whatever begins with `/app/shop`.
#[derive(Debug)]
struct Shop;

impl Handlers for Shop {
    fn can_send(&self, destination: &Destination) -> bool {
        matches!(destination, Destination::Application(name) if name.first() == "shop")
    }

    fn can_subscribe(&self, destination: &Destination) -> bool {
        self.can_send(destination)
    }
}

/// The subscription and the delivery that a model names.
type Named = (SubscriptionKey, DeliveryId);

/// Whether a frame may ask for a receipt.
fn may_ask(command: Command) -> bool {
    !matches!(command, Command::Connect | Command::Stomp)
}
