//! Frames and their bytes, by command, and what compression made of them.

use prometheus::{IntCounter, IntCounterVec};

use super::Families;
use crate::stomp::Command;

/// Frames of one direction.
#[derive(Debug)]
pub(super) struct Traffic {
    frames: [IntCounter; Command::ALL.len() + 1],
    bytes: [IntCounter; Command::ALL.len() + 1],
}

/// Frames of one command, one after the other: they are counted as one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub(super) command: Option<Command>,
    pub(super) frames: u64,
    pub(super) bytes: usize,
}

impl Traffic {
    pub(super) fn new(direction: &str, frames: &IntCounterVec, bytes: &IntCounterVec) -> Self {
        let resolve = |vector: &IntCounterVec| {
            std::array::from_fn(|index| {
                let command = Command::ALL.into_iter().find(|command| place(Some(*command)) == index);
                vector.with_label_values(&[direction, command.map_or("heart-beat", Command::as_str)])
            })
        };
        Traffic { frames: resolve(frames), bytes: resolve(bytes) }
    }

    pub(super) fn count(&self, command: Option<Command>, frames: u64, bytes: usize) {
        let place = place(command);
        self.frames[place].inc_by(frames);
        self.bytes[place].inc_by(bytes as u64);
    }
}

/// Frames that were sent compressed.
#[derive(Debug)]
pub(super) struct Deflated {
    plain: IntCounter,
    sent: IntCounter,
}

impl Deflated {
    pub(super) fn new(families: &Families) -> Self {
        let help = "Bytes of the frames that were sent compressed";
        Deflated {
            plain: families.counter("stompgate_deflate_plain_bytes_total", &format!("{help}, before that.")),
            sent: families.counter("stompgate_deflate_sent_bytes_total", &format!("{help}, as they were sent.")),
        }
    }

    pub(super) fn count(&self, plain: usize, sent: usize) {
        self.plain.inc_by(plain as u64);
        self.sent.inc_by(sent as u64);
    }
}

fn place(command: Option<Command>) -> usize {
    command.map_or(Command::ALL.len(), |command| command as usize)
}

impl Run {
    /// Adds a frame, or a heart-beat (`None`). If it is of another command than those before, they are given back, to be
    /// counted.
    pub fn add(&mut self, command: Option<Command>, bytes: usize) -> Option<Run> {
        let ended = (self.command != command && self.frames > 0).then(|| std::mem::take(self));
        self.command = command;
        self.frames += 1;
        self.bytes += bytes;
        ended
    }

    /// Whether there is anything to be counted.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }
}
