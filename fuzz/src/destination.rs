//! Any text to a destination and back.

use stompgate::message::{Destination, Separators, Spelling, Usage};

/// Parses the text; what it resolves to, spelled again, must resolve to the same.
///
/// The first byte chooses what the destination is for and which characters separate; the rest is the text.
pub fn destination(data: &[u8]) {
    let [mode, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let usage = if mode & 1 == 0 { Usage::Send } else { Usage::Subscribe };
    let (separators, spellings): (_, &[Spelling]) = match mode >> 1 & 3 {
        0 => (Separators::Slash, &[Spelling::SlashOnly]),
        1 => (Separators::Dot, &[Spelling::DotOnly]),
        _ => (Separators::Both, &[Spelling::Slash, Spelling::Dot]),
    };
    let spelling_used = Destination::spelling_of(text, separators);
    assert!(spellings.contains(&spelling_used));
    match Destination::parse(text, usage, separators) {
        Ok(destination) => {
            for spelling in spellings {
                check_spelled(&destination, *spelling, separators);
            }
        }
        Err(refusal) => assert!(!refusal.message.is_empty() && !refusal.detail.is_empty()),
    }
}

fn check_spelled(destination: &Destination, spelling: Spelling, separators: Separators) {
    let spelled = destination.spelled(spelling);
    // A reader may name anything but a reply queue.
    let usage = if matches!(destination, Destination::ReplyQueue(_)) { Usage::Send } else { Usage::Subscribe };
    let again = Destination::parse(&spelled, usage, separators);
    assert_eq!(again.as_ref(), Ok(&as_read(destination)), "{destination:?} is spelled {spelled:?}");
}

/// Readers see messages to themselves without their own name.
fn as_read(destination: &Destination) -> Destination {
    match destination {
        Destination::User { name, .. } => Destination::User { user: None, name: name.clone() },
        other => other.clone(),
    }
}
