//! TLS with certificates on both sides, and WebSocket, to a real Mosquitto.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use stompgate::broker::LinkState;
use stompgate::config::Config;
use stompgate::gateway::Gateway;

use crate::mosquitto::Mosquitto;
use crate::rabbitmq::free_ports;
use crate::support::{Client, until as eventually};
use crate::{gateway_at, until};

/// An authority, and what it has signed for the broker and for the gateway.
struct Certificates(PathBuf);

impl Certificates {
    fn new(name: &str) -> Certificates {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mqtt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "the authority of this test");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("authority.pem"), authority.pem()).unwrap();
        for (owner, names) in [("broker", vec!["localhost".to_owned()]), ("gateway", Vec::new())] {
            let key = KeyPair::generate().unwrap();
            let mut certificate = CertificateParams::new(names).unwrap();
            certificate.distinguished_name.push(DnType::CommonName, owner);
            let certificate = certificate.signed_by(&key, &authority).unwrap();
            std::fs::write(folder.join(format!("{owner}.pem")), certificate.pem()).unwrap();
            std::fs::write(folder.join(format!("{owner}-key.pem")), key.serialize_pem()).unwrap();
        }
        Certificates(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Lines for a listener that wants to see a certificate.
    fn listener(&self) -> String {
        format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\n",
            self.file("authority.pem").display(),
            self.file("broker.pem").display(),
            self.file("broker-key.pem").display()
        )
    }

    fn shown_by(&self, config: &mut Config) {
        config.broker.mqtt.ca = Some(self.file("authority.pem"));
        config.broker.mqtt.certificate = Some(self.file("gateway.pem"));
        config.broker.mqtt.key = Some(self.file("gateway-key.pem"));
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn talks(gateway: &Gateway) {
    let mut client = Client::connect(gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    let body = "y".repeat(200 * 1024);
    client.send(format!("SEND\ndestination:/topic/a\nqos:1\nfoo:bar\n\n{body}")).await;
    client.expect("MESSAGE").await.saying(body).with("foo", "bar");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtts_shows_a_certificate_and_wants_to_see_one() {
    let certificates = Certificates::new("mqtts");
    let server = Mosquitto::start(&certificates.listener()).await;
    let address = format!("mqtts://localhost:{}", server.port());
    talks(&gateway_at(address.clone(), |config| certificates.shown_by(config))).await;
    // Without one we are not let in, and a broker that another authority has signed for is not believed.
    let stranger = gateway_at(address.clone(), |config| {
        config.broker.mqtt.ca = Some(certificates.file("authority.pem"));
    });
    eventually("a refusal", || server.log().contains("peer did not return a certificate")).await;
    assert_eq!(*stranger.broker_state().borrow(), LinkState::Recovering);
    let sceptic = gateway_at(address, |config| {
        certificates.shown_by(config);
        config.broker.mqtt.ca = None;
    });
    eventually("an alert", || server.log().contains("unknown ca")).await;
    assert_eq!(*sceptic.broker_state().borrow(), LinkState::Recovering);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_carries_mqtt_too() {
    // A Mosquitto that has none but such listeners does not start.
    let [port] = free_ports();
    let _server = Mosquitto::start(&format!("listener {port} 127.0.0.1\nprotocol websockets")).await;
    talks(&gateway_at(format!("ws://127.0.0.1:{port}"), |_| {})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_so_does_websocket_over_tls() {
    let certificates = Certificates::new("wss");
    let [port] = free_ports();
    let listener = format!("listener {port} 127.0.0.1\nprotocol websockets\n{}", certificates.listener());
    let _server = Mosquitto::start(&listener).await;
    let gateway = gateway_at(format!("wss://localhost:{port}"), |config| certificates.shown_by(config));
    until(&gateway, LinkState::Up).await;
    talks(&gateway).await;
}
