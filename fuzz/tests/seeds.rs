//! Replays the seeds, so that what fuzzing once found stays found without a fuzzer.

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display()); // shown when the check fails
        check(&fs::read(&path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "no seeds for {target}");
}

#[test]
fn decoder() {
    replay("decoder", stompgate_fuzz::decoder);
}

#[test]
fn destination() {
    replay("destination", stompgate_fuzz::destination);
}

#[test]
fn handshake() {
    replay("handshake", stompgate_fuzz::handshake);
}

#[test]
fn session() {
    replay("session", stompgate_fuzz::session);
}
