//! The program of `examples/embed.rs`, as it stands there.

use crate::support::{Client, builder};

#[expect(dead_code, reason = "its main is for cargo run")]
#[path = "../../examples/embed.rs"]
mod embed;

#[tokio::test]
async fn the_example_answers_marco_stamps_messages_and_knows_only_ada() {
    let program = include_str!("../../examples/embed.rs");
    assert!(program.lines().count() <= 60, "what the README promises to be short is");
    let gateway = embed::with_marco(builder(|_| {})).start().expect("a gateway that starts");
    let mut ada = Client::connect_with(&gateway, "1.2", "login:ada\npasscode:lovelace").await;
    ada.subscribe("id:0\ndestination:/topic/marco").await;
    ada.send("SEND\ndestination:/app/marco\n\nMarco!").await;
    ada.expect("MESSAGE").await.with("destination", "/topic/marco").saying("Polo!");
    ada.send("SEND\ndestination:/topic/marco\n\nMarco!").await;
    let session = ada.session.clone();
    ada.expect("MESSAGE").await.with("sent-by", &session).saying("Marco!");
    let mut eve = Client::open(&gateway).await;
    eve.send("CONNECT\naccept-version:1.2\nlogin:eve\npasscode:lovelace").await;
    eve.expect_error("not-authenticated", 4401).await;
}
