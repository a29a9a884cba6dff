//! Kills and cuts at random moments, and an account of every message.
//!
//! A queue of MQTT is no store: what the broker has taken and not yet brought to a reader goes with its process, or with
//! that reader's connection. So what is missing in the end must have been on its way when one of the faults came; and
//! nothing comes twice without saying why. The environment variables are those of `faults/accounting.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::account::{self, PUBLISHERS, Random, all, consume, from_environment, lock, publish, settled};
use crate::mosquitto::Mosquitto;
use crate::proxy::{Cut, Proxy};
use crate::support::{Client, until as eventually};
use crate::{by, gateway_at, until, uri};

const QUEUES: [&str; 2] = ["one", "other"];
/// A reader may fall behind on a busy machine, and what the broker then drops would count as lost. It tells who subscribes.
const SETTINGS: &str = "max_queued_messages 0\nlog_type error\nlog_type information\nlog_type subscribe";

by_both_versions! { only_what_was_on_its_way_at_a_fault_is_lost_and_doubles_say_why }

async fn only_what_was_on_its_way_at_a_fault_is_lost_and_doubles_say_why(version: Version) {
    let (kills, cuts) = (from_environment("KILLS", 3), from_environment("CUTS", 3));
    let seed = from_environment("SEED", u64::from(getrandom::u32().unwrap()));
    println!("STOMPGATE_FAULTS_KILLS={kills} STOMPGATE_FAULTS_CUTS={cuts} STOMPGATE_FAULTS_SEED={seed}");
    let mut random = Random(seed);
    let mut server = Mosquitto::start(SETTINGS).await;
    let proxy = Proxy::before(server.port());
    let gateway = Arc::new(gateway_at(uri(proxy.port()), by(version)));
    let account = account::open(&QUEUES);
    let mut consumers = Vec::new();
    let (done, is_done) = watch::channel(false);
    for queue in QUEUES {
        for mode in ["client", "client-individual"] {
            let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,5000\n").await;
            client.subscribe(&format!("id:0\ndestination:/queue/{queue}\nack:{mode}\nprefetch-count:20")).await;
            consumers.push(tokio::spawn(consume(client, queue, Arc::clone(&account), is_done.clone())));
        }
    }
    // 3.1.1 does not say when nobody is there; what comes before they are back is on its way.
    let places = |server: &Mosquitto| server.log().matches(" $share/").count();
    let all_places = consumers.len();
    let (stop, is_stopped) = watch::channel(false);
    let publish = |number| publish(Arc::clone(&gateway), number, Arc::clone(&account), is_stopped.clone());
    let publishers: Vec<_> = (0..PUBLISHERS).map(|number| tokio::spawn(publish(number))).collect();

    let mut on_their_way = HashSet::new();
    let (mut kills_left, mut cuts_left) = (kills, cuts);
    while kills_left + cuts_left > 0 {
        sleep(Duration::from_millis(random.below(1000))).await;
        let before: HashSet<_> = lock(&account).delivered.keys().cloned().collect();
        if random.below(kills_left + cuts_left) < kills_left {
            kills_left -= 1;
            server.kill();
            until(&gateway, LinkState::Recovering).await;
            sleep(Duration::from_millis(random.below(1000))).await;
            server.run().await;
            eventually("all readers again", || places(&server) >= all_places).await;
        } else {
            cuts_left -= 1;
            let before = places(&server);
            proxy.cut(if random.below(2) == 0 { Cut::Fin } else { Cut::Reset });
            eventually("all readers again", || places(&server) >= before + all_places).await;
        }
        until(&gateway, LinkState::Up).await;
        // Also what has no RECEIPT yet: that may be on its way here.
        on_their_way.extend(lock(&account).sent.difference(&before).cloned());
    }
    // A time without faults, too, and enough of both to mean anything.
    sleep(Duration::from_millis(500)).await;
    eventually("a hundred messages", || lock(&account).confirmed.len() > 100).await;
    stop.send(true).unwrap();
    all(publishers).await;
    settled(&account, &on_their_way).await;
    done.send(true).unwrap();
    all(consumers).await;
    let account = lock(&account);
    println!("{version:?}, {kills} kills, {cuts} cuts, seed {seed}: {}", account.figures());
    let lost = account.missing_but(&on_their_way);
    assert!(lost.is_empty(), "lost without a fault: {lost:?}");
    assert!(account.unexcused().is_empty(), "twice without a mark: {:?}", account.unexcused());
    assert!(account.errors.is_empty(), "the broker came back in time, and yet: {:?}", account.errors);
}
