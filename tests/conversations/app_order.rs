//! The order of what comes of a session's frames, however long handlers take and whatever becomes of them (contract, §10).

use proptest::prelude::*;
use stompgate::chain::{Answer, Failure, Request, Route, handler};
use stompgate::message::Separators;

use crate::support::{Client, builder};

/// A frame of the client.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Without a handler.
    Plain,
    Ordered,
    Concurrent,
    /// Its handler fails, and nothing is published.
    Failing,
    /// A transaction of one frame with a handler and one without.
    Staged,
}

/// Steps, each with the number of times that its handler lets others run.
fn scripts() -> impl Strategy<Value = Vec<(Step, u32)>> {
    use Step::{Concurrent, Failing, Ordered, Plain, Staged};
    prop::collection::vec((prop::sample::select(&[Plain, Ordered, Concurrent, Failing, Staged][..]), 0_u32..40), 1..40)
}

fn route(name: &str) -> Route {
    let handler = handler(|request: Request| async move {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let (number, pauses) = text.split_once(' ').expect("a number and how slow it is");
        for _ in 0..pauses.parse::<u32>().expect("a number") {
            tokio::task::yield_now().await;
        }
        match &*request.destination.to_string() {
            "/app/failing" => Err(Failure::new(422, "no")),
            _ => Ok(Some(Answer::text(number))),
        }
    });
    Route::new(&format!("/app/{name}"), Separators::Both).expect("a pattern").handled_by(handler)
}

/// What the script is to give: the numbers that keep their order, and those that need not.
#[derive(Debug, Default)]
struct Expected {
    in_order: Vec<u32>,
    beside: Vec<u32>,
}

async fn carry_out(script: &[(Step, u32)], max_concurrent: usize) -> (Expected, Vec<u32>) {
    let gateway = builder(|config| config.app.max_concurrent = max_concurrent);
    let gateway = gateway.route(route("ordered")).route(route("failing")).route(route("beside").concurrent());
    let gateway = gateway.start().expect("a gateway that starts");
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/#").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let (mut expected, mut number) = (Expected::default(), 0);
    for (step, pauses) in script {
        let called = |name: &str, more: &str| format!("SEND\ndestination:/app/{name}{more}\n\n{number} {pauses}");
        match step {
            Step::Plain => client.send(format!("SEND\ndestination:/topic/plain\n\n{number}")).await,
            Step::Ordered => client.send(called("ordered", "")).await,
            Step::Concurrent => client.send(called("beside", "")).await,
            Step::Failing => client.send(called("failing", "")).await,
            Step::Staged => {
                client.send(format!("BEGIN\ntransaction:t{number}")).await;
                client.send(called("ordered", &format!("\ntransaction:t{number}"))).await;
                let second = number + 1;
                client.send(format!("SEND\ndestination:/topic/plain\ntransaction:t{number}\n\n{second}")).await;
                client.send(format!("COMMIT\ntransaction:t{number}")).await;
            }
        }
        match step {
            Step::Plain | Step::Ordered => expected.in_order.push(number),
            Step::Concurrent => expected.beside.push(number),
            Step::Failing => {}
            Step::Staged => expected.in_order.extend([number, number + 1]),
        }
        number += 2;
    }
    let bodies = reader.bodies(expected.in_order.len() + expected.beside.len()).await;
    (expected, bodies.iter().map(|body| body.parse().expect("a number")).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_session_sends_keeps_its_order_but_for_concurrent_routes(
        script in scripts(),
        max_concurrent in 1_usize..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (expected, seen) = runtime.block_on(carry_out(&script, max_concurrent));
        let (beside, in_order): (Vec<u32>, Vec<u32>) = seen.iter().partition(|number| expected.beside.contains(number));
        prop_assert_eq!(in_order, expected.in_order);
        let mut once = beside;
        once.sort_unstable();
        prop_assert_eq!(once, expected.beside.clone());
        for (place, number) in seen.iter().enumerate().filter(|(_, number)| expected.beside.contains(number)) {
            let later = seen[place..].iter().find(|other| *other < number && !expected.beside.contains(other));
            prop_assert_eq!(later, None, "{} came before what was sent before it: {:?}", number, &seen);
        }
    }
}
