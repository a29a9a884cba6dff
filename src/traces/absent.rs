//! What stands for the recorder in a program that was built without the feature `otlp`: there is none.

use std::sync::Arc;

use super::{Settings, Stage};
use crate::message::{Headers, Message};

#[derive(Clone)]
pub(super) enum Recorder {}

pub(super) enum Open {}

impl Recorder {
    #[expect(clippy::unnecessary_wraps, reason = "the other one can fail")]
    pub(super) fn start(_: &Settings, _: &str) -> Result<Option<Self>, String> {
        Ok(None)
    }

    pub(super) fn receive(&self, _: &mut Message, _: &str) -> Option<Open> {
        match *self {}
    }

    pub(super) fn deliver(&self, _: &Arc<Message>) -> Option<(Open, Arc<Message>)> {
        match *self {}
    }

    pub(super) fn max_open(&self) -> usize {
        match *self {}
    }

    pub(super) fn counts(&self) -> [u64; 3] {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the other one waits")]
    pub(super) async fn close(&self) {
        match *self {}
    }
}

impl Open {
    pub(super) fn child(&self, _: Stage) -> Open {
        match *self {}
    }

    pub(super) fn step(&self, _: Stage, _: &mut Headers) -> Open {
        match *self {}
    }

    pub(super) fn join(&mut self, _: Open) {
        match *self {}
    }

    pub(super) fn note(&mut self, _: &'static str, _: &str) {
        match *self {}
    }

    pub(super) fn succeed(&mut self) {
        match *self {}
    }

    pub(super) fn fail(&mut self, _: &str) {
        match *self {}
    }
}
