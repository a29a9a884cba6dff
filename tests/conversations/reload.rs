//! Settings that are read again while the gateway runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use stompgate::access::RuleSettings;
use stompgate::chain::RouteSettings;
use stompgate::config::Config;
use stompgate::gateway::Gateway;
use tokio::net::{TcpStream, UnixDatagram};
use tokio_rustls::TlsConnector;

use crate::support::operator::{KEY, done, refused};
use crate::support::program::Program;
use crate::support::raw::{TEXT, masked};
use crate::support::{Client, builder, soon, wire};

/// A gateway that reads its settings again from where the test writes them.
fn reloading(change: impl FnOnce(&mut Config)) -> (Gateway, Arc<Mutex<Config>>) {
    let written = Arc::new(Mutex::new(Config::default()));
    let read = Arc::clone(&written);
    let gateway = builder(|config| {
        change(config);
        *written.lock().expect("settings") = config.clone();
    });
    let gateway = gateway.reloading(move || Ok(read.lock().expect("settings").clone())).start();
    (gateway.expect("a gateway that starts"), written)
}

/// Changes what is written, and has it read.
fn reload(gateway: &Gateway, written: &Mutex<Config>, change: impl FnOnce(&mut Config)) -> (Vec<String>, Vec<String>) {
    change(&mut written.lock().expect("settings"));
    let reloaded = gateway.reload().expect("settings that are good");
    (reloaded.applied, reloaded.restart)
}

fn route(pattern: &str) -> RouteSettings {
    RouteSettings { pattern: pattern.to_owned(), ..RouteSettings::default() }
}

#[tokio::test]
async fn limits_hold_for_the_clients_that_come() {
    let (gateway, written) = reloading(|_| {});
    let mut before = Client::connect(&gateway, "1.2").await;
    let (applied, restart) = reload(&gateway, &written, |config| {
        config.session.max_body = 10;
        config.server.max_connections_per_address = 2;
    });
    assert_eq!(
        (applied, restart.len()),
        (vec!["server.max_connections_per_address".into(), "session.max_body".into()], 0)
    );
    before.does("SEND\ndestination:/topic/a\n\nmore than ten bytes").await;
    let mut after = Client::connect(&gateway, "1.2").await;
    after.send("SEND\ndestination:/topic/a\n\nmore than ten bytes").await;
    let mut third = Client::open(&gateway).await;
    third.expect_error("overload", 1013).await.about("server.max_connections_per_address");
    after.expect_error("too-large", 1009).await.about("session.max_body");
    before.does("SEND\ndestination:/topic/a\n\nmore than ten bytes").await;
}

#[tokio::test]
async fn routes_hold_for_all_and_at_once() {
    let (gateway, written) = reloading(|_| {});
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/echo").await;
    let (applied, _) = reload(&gateway, &written, |config| config.app.route = vec![route("/app/echo")]);
    assert_eq!(applied, ["app.route"]);
    let mut other = Client::connect(&gateway, "1.2").await;
    for client in [&mut other, &mut client] {
        client.send("SEND\ndestination:/app/echo\n\nhello").await;
    }
    for _ in 0..2 {
        client.expect("MESSAGE").await.saying("hello").with("destination", "/topic/echo");
    }
    reload(&gateway, &written, |config| config.app.route = vec![route("/app/other")]);
    client.send("SEND\ndestination:/app/echo\n\nhello").await;
    client.expect_error("no-handler", 1008).await;
    reload(&gateway, &written, |config| config.app.route.clear());
    other.send("SEND\ndestination:/app/other\n\nhello").await;
    other.expect_error("no-handler", 1008).await;
}

#[tokio::test]
async fn what_a_session_holds_is_put_to_the_new_rules() {
    let (gateway, written) = reloading(|_| {});
    let mut reader = Client::connect_with(&gateway, "1.2", "login:ada").await;
    reader.subscribe("id:0\ndestination:/topic/secret").await;
    let mut other = Client::connect_with(&gateway, "1.2", "login:bob").await;
    other.subscribe("id:0\ndestination:/topic/open").await;
    let rule = RuleSettings { destinations: vec!["/topic/open".to_owned()], ..RuleSettings::default() };
    let (applied, _) = reload(&gateway, &written, |config| config.access.rule = vec![rule]);
    assert_eq!(applied, ["access.rule"]);
    reader.expect_error("access-refused", 4403).await.about("/topic/secret");
    other.does("UNSUBSCRIBE\nid:0").await;
    other.subscribe("id:1\ndestination:/topic/open").await;
    other.send("SUBSCRIBE\nid:2\ndestination:/topic/secret").await;
    other.expect_error("access-refused", 4403).await;
    reload(&gateway, &written, |config| config.access.rule.clear());
    let mut reader = Client::connect_with(&gateway, "1.2", "login:ada").await;
    reader.subscribe("id:0\ndestination:/topic/secret").await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_stays() {
    let (gateway, written) = reloading(|_| {});
    let change = |config: &mut Config| {
        config.server.listen = "127.0.0.1:1".parse().expect("an address");
        config.broker.memory.max_queues = 1;
        config.admin.api_key = Some(KEY.into());
        config.session.prefetch = 7;
    };
    let (applied, restart) = reload(&gateway, &written, change);
    assert_eq!(applied, ["session.prefetch"]);
    assert_eq!(restart, ["admin.api_key", "broker.memory.max_queues", "server.listen"]);
    let (applied, restart) = reload(&gateway, &written, |_| {});
    assert_eq!((applied.len(), restart.len()), (0, 3), "it is named until it is done");
    Client::connect(&gateway, "1.2").await.disconnect().await;
}

#[tokio::test]
async fn settings_that_do_not_go_together_change_nothing() {
    let (gateway, written) = reloading(|_| {});
    let mut client = Client::connect(&gateway, "1.2").await;
    let good = written.lock().expect("settings").clone();
    let mut bad = good.clone();
    bad.session.max_body = 1;
    bad.app.route = vec![route("/app/a")];
    bad.app.timeout = bad.session.confirm_timeout;
    *written.lock().expect("settings") = bad;
    let why = gateway.reload().expect_err("no time for a handler");
    assert!(why.contains("app.timeout"), "{why}");
    client.send("SEND\ndestination:/app/a\n\nx").await;
    client.expect_error("no-handler", 1008).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/a\n\nmore than one byte").await;
    *written.lock().expect("settings") = good;
    gateway.reload().expect("good ones");
}

#[tokio::test]
async fn a_reload_under_load_loses_nothing_and_changes_no_order() {
    const MESSAGES: usize = 2000;
    let (gateway, written) = reloading(|_| {});
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/queue/a\nack:client-individual").await;
    reader.subscribe("id:1\ndestination:/topic/a").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let writing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let destination = if number.is_multiple_of(2) { "/queue/a" } else { "/topic/a" };
            writer.does(&format!("SEND\ndestination:{destination}\n\n{number}")).await.without("routed");
        }
    });
    let (mut queue, mut topic) = (Vec::new(), Vec::new());
    while queue.len() + topic.len() < MESSAGES {
        let message = reader.expect("MESSAGE").await;
        let number: usize = message.body().parse().expect("a number");
        if number.is_multiple_of(2) {
            reader.send(format!("ACK\nid:{}", message.get("ack"))).await;
            queue.push(number);
        } else {
            topic.push(number);
        }
        if number.is_multiple_of(20) {
            reload(&gateway, &written, |config| {
                config.session.prefetch = u16::try_from(1 + number % 100).expect("a small number");
                config.app.route = vec![route(&format!("/app/a{number}"))];
            });
        }
    }
    soon("the writer", writing).await.expect("no panic");
    assert!(queue.iter().copied().eq((0..MESSAGES).step_by(2)), "{queue:?}");
    assert!(topic.iter().copied().eq((1..MESSAGES).step_by(2)), "{topic:?}");
}

/// Writes a certificate and its key to these files; and a client's trust in it alone.
fn certificate(certificate: &Path, key: &Path) -> Arc<ClientConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(certificate, made.cert.pem()).expect("a place for a file");
    fs::write(key, made.signing_key.serialize_pem()).expect("a place for a file");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.expect("versions of TLS").with_root_certificates(roots).with_no_client_auth())
}

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reload-{}-{name}", std::process::id()))
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_those_who_come_and_a_bad_one_is_not_taken() {
    let files = [place("certificate.pem"), place("key.pem")];
    let old = certificate(&files[0], &files[1]);
    let (gateway, _written) = reloading(|config| {
        config.server.tls.certificate = Some(files[0].clone());
        config.server.tls.key = Some(files[1].clone());
    });
    let connect = async |trust: &Arc<ClientConfig>| {
        let stream = TcpStream::connect(gateway.address()).await.expect("a gateway that accepts");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::clone(trust)).connect(name, stream).await
    };
    let mut before = Client::open_on(&gateway, connect(&old).await.expect("trust")).await;
    before.login("1.2", "").await;
    fs::write(&files[1], "no key").expect("a file");
    let why = gateway.reload().expect_err("no key").clone();
    assert!(why.contains("server.tls.key"), "{why}");
    connect(&old).await.expect("the old one still");
    let new = certificate(&files[0], &files[1]);
    gateway.reload().expect("a good certificate");
    connect(&old).await.expect_err("another certificate");
    let mut after = Client::open_on(&gateway, connect(&new).await.expect("trust")).await;
    after.login("1.2", "").await;
    before.does("SEND\ndestination:/topic/a\n\nx").await;
    for file in files {
        fs::remove_file(file).expect("a file");
    }
}

#[tokio::test]
async fn the_program_reads_its_file_again_and_says_what_is_wrong_with_it() {
    let file = place("settings.toml");
    let write = |text: &str| fs::write(&file, format!("[admin]\napi_key = \"{KEY}\"\n{text}")).expect("a file");
    write("[log]\nlevel = \"warn\"\n");
    let program = Program::start_as(&["--config", file.to_str().expect("a path")], &[]);
    let (mut client, _) = program.connected_with("").await;
    write("[log]\nlevel = \"info\"\n[session]\nprefetch = 7\n[broker.memory]\nmax_queues = 5\n");
    let reloaded = done(&program.admin, "POST /reload", Value::Null).await;
    let expected = json!({ "applied": ["log.level", "session.prefetch"], "restart": ["broker.memory.max_queues"] });
    assert_eq!(reloaded, expected);
    program.logs("have been read again").await;
    assert_eq!(done(&program.admin, "GET /log", Value::Null).await["level"], json!("info"));
    done(&program.admin, "PUT /log", json!({ "level": "debug" })).await;
    write("[log]\nlevel = \"info\"\n[session]\nprefetch = 8\n");
    done(&program.admin, "POST /reload", Value::Null).await;
    assert_eq!(done(&program.admin, "GET /log", Value::Null).await["level"], json!("debug"), "an operator's stays");
    write("[log]\nlevel = \"warn\"\n[session]\nprefetch = 8\n");
    done(&program.admin, "POST /reload", Value::Null).await;
    write("[log]\nlevel = \"info\"\n[session]\nprefetch = 8\n");
    done(&program.admin, "POST /reload", Value::Null).await;
    for (bad, about) in [
        ("[session]\nprefetsch = 7\n", "session.prefetch"),
        ("[session]\nprefetch = 0\n", "session.prefetch"),
        ("[session\n", "line 3"),
        ("[log]\nlevel = \"loud\"\n", "log.level"),
    ] {
        write(bad);
        let problem = refused(&program.admin, "POST /reload", Value::Null, 422, about).await;
        assert!(!problem.to_string().contains(KEY), "{problem}");
        program.signal("HUP");
        program.logs("the settings stay as they were").await;
    }
    assert_eq!(done(&program.admin, "GET /log", Value::Null).await["level"], json!("info"), "nothing has changed");
    client.write(masked(TEXT, &wire("SEND\ndestination:/topic/a\nreceipt:1\n\nx"))).await;
    client.expect("RECEIPT").await;
    fs::remove_file(file).expect("a file");
}

#[tokio::test]
async fn systemd_is_told_of_a_reload() {
    let (file, socket) = (place("hup.toml"), place("notify"));
    fs::write(&file, "[log]\nlevel = \"warn\"\n").expect("a file");
    let systemd = UnixDatagram::bind(&socket).expect("a socket");
    let told = async || {
        let mut buffer = [0; 1024];
        let length = soon("systemd to be told", systemd.recv(&mut buffer)).await.expect("a datagram");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let environment = [("NOTIFY_SOCKET", socket.to_str().expect("a path"))];
    let program = Program::start_as(&["--config", file.to_str().expect("a path")], &environment);
    assert!(told().await.starts_with("READY=1"));
    fs::write(&file, "[log]\nlevel = \"info\"\n").expect("a file");
    program.signal("HUP");
    let reloading = told().await;
    assert!(reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(told().await.starts_with("READY=1"));
    program.logs("log.level").await;
    for file in [file, socket] {
        fs::remove_file(file).expect("a file");
    }
}
