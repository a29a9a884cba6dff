//! One client's STOMP session: frames and events in, actions out. No IO, no clock.

mod settings;

pub use settings::Settings;
