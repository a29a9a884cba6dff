//! Back ends publish as the gateway itself, to the virtual host that they name.

use serde_json::json;

use crate::support::Client;
use crate::support::operator::{KEY, done, refused};
use crate::{login, per_user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_needs_no_login_of_its_own_and_may_name_a_virtual_host() {
    let hosts = [("shop.example.com".to_owned(), "shop".to_owned())];
    let gateway = per_user(|config| {
        config.broker.amqp.virtual_hosts = hosts.into();
        config.admin.api_key = Some(KEY.into());
    });
    let gateway = gateway.await;
    let admin = gateway.admin_address().expect("a port for operators").to_string();
    let connect = async |host: &str| {
        let mut client = Client::open(&gateway).await;
        client.send(format!("CONNECT\naccept-version:1.2\n{host}{}", login("ada"))).await;
        client.expect("CONNECTED").await;
        client.speaks("1.2");
        client
    };
    let (mut here, mut shop) = (connect("").await, connect("host:shop.example.com\n").await);
    for (client, request, body) in
        [(&mut here, "POST /messages", "here"), (&mut shop, "POST /messages?host=shop.example.com", "shop")]
    {
        client.subscribe("id:0\ndestination:/topic/of-back-ends").await;
        let message = json!({ "destination": "/topic/of-back-ends", "body": body });
        assert_eq!(done(&admin, request, message).await, json!({ "routed": true }));
        client.expect("MESSAGE").await.saying(body).without("stompgate-user").without("user-id");
    }
    let message = json!({ "destination": "/topic/of-back-ends" });
    refused(&admin, "POST /messages?host=elsewhere.example.com", message, 422, "unknown-host").await;
}
