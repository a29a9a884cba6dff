//! Links of users: one for each virtual host, user and passcode, and only for those whom the broker lets in.
//!
//! ```text
//! CONNECT ── known, verified within auth.cache? ── yes ───────────────────────────────► its link
//!                     │ no
//!                     └─ one question for all who ask the same ─ max_verifications ─► broker ─► its link, or a refusal
//! ```
//!
//! Passcodes are not kept here: links are told apart by a keyed hash, whose key lasts as long as the process. (The link
//! itself has to know the passcode, to connect again.)
//!
//! A user has two connections at most, because each costs a thread and up to 60 times its frames in memory: one to
//! publish on, and one to read with. They are not one, because a broker that blocks publishers (`connection.blocked`)
//! stops everything that lapin writes, acknowledgements too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lapin::types::ShortString;
use ring::error::Unspecified;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

use super::connection::Connector;
use super::dial::Dialer;
use super::link::AmqpLink;
use super::settings::Settings;
use super::window::Window;
use crate::broker::BrokerError;
use crate::message::{Text, detached};

/// All links of users.
pub(super) struct Users {
    settings: Settings,
    exchange: ShortString,
    window: Arc<Window>,
    dialer: Dialer,
    secret: hmac::Key,
    verifying: Semaphore,
    links: Mutex<HashMap<Key, User>>,
    questions: Mutex<HashMap<Key, Arc<Question>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    virtual_host: Text,
    user: Text,
    passcode: [u8; 32],
}

/// A link whose user the broker has let in.
struct User {
    link: Arc<AmqpLink>,
    verified: Instant,
    /// Since when no session has been seen that uses it.
    idle: Option<Instant>,
}

/// Whether the broker lets somebody in: those who ask while it is being asked get the same answer.
type Question = tokio::sync::Mutex<Option<Result<(), BrokerError>>>;

impl Users {
    /// No links yet. It needs a tokio runtime. An error is that the system has no random numbers.
    pub(super) fn start(
        settings: &Settings,
        exchange: &ShortString,
        dialer: &Dialer,
        window: &Arc<Window>,
    ) -> Result<Arc<Self>, Unspecified> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        let settings = Settings {
            // What many clients need, one user does not.
            publish_channels: 1,
            shared_queues: 1,
            frame_max: settings.user_frame_max,
            ..settings.clone()
        };
        let users = Arc::new(Users {
            exchange: exchange.clone(),
            window: Arc::clone(window),
            dialer: dialer.clone(),
            secret,
            verifying: Semaphore::new(settings.max_verifications.min(Semaphore::MAX_PERMITS)),
            links: Mutex::default(),
            questions: Mutex::default(),
            settings,
        });
        tokio::spawn(close_idle(Arc::downgrade(&users), users.settings.user_link_idle));
        Ok(users)
    }

    /// The link of this user, if the broker lets it in.
    pub(super) async fn link(
        &self,
        virtual_host: &str,
        user: &Text,
        passcode: &str,
        service: &Arc<AmqpLink>,
    ) -> Result<Arc<AmqpLink>, BrokerError> {
        let key = Key { virtual_host: virtual_host.into(), user: detached(user), passcode: self.hash(passcode) };
        if let Some(link) = self.verified(&key) {
            return Ok(link);
        }
        let dialer = self.dialer.to(virtual_host).of_user(&key.user, passcode, self.settings.frame_max);
        self.ask(&key, &dialer).await?;
        self.open(key, dialer, service)
    }

    /// All of them.
    pub(super) fn links(&self) -> Vec<Arc<AmqpLink>> {
        self.lock().values().map(|user| Arc::clone(&user.link)).collect()
    }

    fn hash(&self, passcode: &str) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.secret, passcode.as_bytes()).as_ref());
        hash
    }

    fn verified(&self, key: &Key) -> Option<Arc<AmqpLink>> {
        let links = self.lock();
        let user = links.get(key)?;
        let holds = user.verified.elapsed() < self.settings.verified_for && !user.link.connector().is_closed();
        holds.then(|| Arc::clone(&user.link))
    }

    /// Asks the broker, or waits for the answer that somebody else is waiting for.
    async fn ask(&self, key: &Key, dialer: &Dialer) -> Result<(), BrokerError> {
        let asking = Asking { users: self, key, question: self.question(key) };
        let mut answer = asking.question.lock().await;
        if let Some(answer) = &*answer {
            return answer.clone();
        }
        let _turn = self.verifying.acquire().await;
        let checked = dialer.check().await;
        // Whoever asks from now on asks anew.
        asking.forget();
        *answer = Some(checked.clone());
        checked
    }

    fn question(&self, key: &Key) -> Arc<Question> {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(questions.entry(key.clone()).or_default())
    }

    /// The link, now that the broker has let the user in.
    fn open(&self, key: Key, dialer: Dialer, service: &Arc<AmqpLink>) -> Result<Arc<AmqpLink>, BrokerError> {
        let mut links = self.lock();
        links.retain(|_, user| !user.link.connector().is_closed());
        if let Some(user) = links.get_mut(&key) {
            user.verified = Instant::now();
            return Ok(Arc::clone(&user.link));
        }
        if links.len() >= self.settings.max_user_links && !make_room(&mut links) {
            return Err(BrokerError::LimitExceeded {
                what: "users with a link to the broker".to_owned(),
                limit: self.settings.max_user_links,
                setting: "broker.amqp.max_user_links",
            });
        }
        let connector = Connector::new(dialer, self.settings.reconnect_max);
        let service = Some(Arc::clone(service));
        let link = Arc::new(AmqpLink::new(&self.settings, &self.exchange, connector, service, &self.window));
        links.insert(key, User { link: Arc::clone(&link), verified: Instant::now(), idle: None });
        Ok(link)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, User>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for the answer to a question. The last one takes the question away, answered or not.
struct Asking<'a> {
    users: &'a Users,
    key: &'a Key,
    question: Arc<Question>,
}

impl Asking<'_> {
    fn forget(&self) {
        let mut questions = self.users.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if questions.get(self.key).is_some_and(|known| Arc::ptr_eq(known, &self.question)) {
            questions.remove(self.key);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut questions = self.users.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = |known: &Arc<Question>| Arc::ptr_eq(known, &self.question) && Arc::strong_count(known) == 2;
        if questions.get(self.key).is_some_and(is_last) {
            questions.remove(self.key);
        }
    }
}

impl User {
    /// Sessions hold the link, and so does what they read in the hub.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.link) > 1
    }
}

/// Drops a link that no session uses, if there is one.
fn make_room(links: &mut HashMap<Key, User>) -> bool {
    let unused = links.iter().filter(|(_, user)| !user.is_used()).min_by_key(|(_, user)| user.verified);
    let Some(key) = unused.map(|(key, _)| key.clone()) else { return false };
    links.remove(&key).is_some()
}

/// Drops links that no session has used for a while. Ends with the broker.
async fn close_idle(users: Weak<Users>, idle: Duration) {
    loop {
        tokio::time::sleep((idle / 2).max(Duration::from_millis(10))).await;
        let Some(users) = users.upgrade() else { return };
        users.lock().retain(|key, user| {
            if user.is_used() {
                user.idle = None;
                return true;
            }
            let is_over = user.idle.get_or_insert_with(Instant::now).elapsed() >= idle;
            if is_over {
                debug!(user = %key.user, virtual_host = %key.virtual_host, "the link is idle and closes");
            }
            !is_over
        });
    }
}
