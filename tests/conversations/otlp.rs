//! Spans of the way of a message, as a collector gets them (OTLP).

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use stompgate::chain::{Context, Event, HttpSettings, Interceptor, Interest, Rejection, RouteSettings, Verdict};
use stompgate::config::Config;
use stompgate::hub::{OutboxPolicy, WhenFull};
use stompgate::message::Message;

use crate::support::service::{Answer, Call, Service, answer};
use crate::support::{Client, Gateway, Raw, builder, gateway_with, soon};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that takes everything.
struct Collector(Service);

impl Collector {
    async fn start() -> Self {
        Collector(Service::start([answer("200 OK", "")]).await)
    }

    fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.0.address)
    }

    /// What has come so far.
    fn spans(&self) -> Vec<Span> {
        self.0.calls().iter().flat_map(spans).collect()
    }

    /// The span that a `traceparent` names, which must come.
    async fn named_by(&self, given: &str) -> Span {
        self.until(&format!("the span of {given}"), |span| parent(span) == given).await
    }

    /// A span of which this holds, which must come.
    async fn until(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        soon(what, async {
            loop {
                if let Some(span) = self.spans().into_iter().find(&is_it) {
                    return span;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// The spans of these names, in the trace, which must come.
    async fn expect(&self, names: &[&str]) -> Vec<Span> {
        let mut spans = Vec::new();
        for name in names {
            spans.push(self.until(name, |span| span.name == *name && hex(&span.trace_id) == TRACE).await);
        }
        spans
    }
}

/// The spans of one export, which must be of this gateway.
fn spans(call: &Call) -> Vec<Span> {
    assert_eq!(call.line(), "POST /v1/traces HTTP/1.1");
    assert_eq!(call.headers("content-type"), ["application/x-protobuf"]);
    let request = ExportTraceServiceRequest::decode(&*call.bytes).expect("OTLP");
    let of_one = |spans: opentelemetry_proto::tonic::trace::v1::ResourceSpans| {
        let resource = spans.resource.expect("whose spans they are");
        let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
        let name = name.and_then(|name| name.value.clone()?.value);
        assert_eq!(name, Some(Value::StringValue("stompgate".to_owned())));
        spans.scope_spans.into_iter().flat_map(|scope| scope.spans)
    };
    request.resource_spans.into_iter().flat_map(of_one).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    match span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value? {
        Value::StringValue(value) => Some(value),
        Value::IntValue(value) => Some(value.to_string()),
        other => panic!("{other:?}"),
    }
}

/// The `traceparent` that names this span.
fn parent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

fn exporting(endpoint: String) -> impl FnOnce(&mut Config) {
    move |config| {
        config.traces.endpoint = Some(endpoint);
        config.traces.interval = Duration::from_millis(5);
    }
}

async fn metric(gateway: &Gateway, series: &str) -> u64 {
    let mut raw = Raw::tcp_to(gateway.admin_address().expect("a port for operators")).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let text = raw.answer().await.body;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in {text}")).parse().expect("a number")
}

#[tokio::test]
async fn send_handler_and_message_are_one_trace() {
    let collector = Collector::start().await;
    let service = Service::start([answer("200 OK", "sold")]).await;
    let route = RouteSettings {
        pattern: "/app/buy".into(),
        http: Some(HttpSettings { url: format!("http://{}/buy", service.address), ..HttpSettings::default() }),
        ..RouteSettings::default()
    };
    let gateway = gateway_with(|config| {
        exporting(collector.endpoint())(config);
        config.app.route = vec![route];
    });
    let mut plain = Client::connect(&gateway, "1.2").await;
    plain.subscribe("id:0\ndestination:/topic/buy").await;
    let mut acking = Client::connect(&gateway, "1.2").await;
    acking.subscribe("id:0\ndestination:/topic/buy\nack:client-individual").await;
    let mut sender = Client::connect(&gateway, "1.2").await;
    sender.does(&format!("SEND\ndestination:/app/buy\ntraceparent:{PARENT}\ntracestate:a=1\n\nshoes")).await;
    let message = plain.expect("MESSAGE").await.saying("sold").with("tracestate", "a=1");
    let delivery = acking.expect("MESSAGE").await.saying("sold").with("tracestate", "a=1");
    acking.does(&format!("ACK\nid:{}", delivery.get("ack"))).await;

    let spans = collector.expect(&["receive", "chain", "publish", "confirm", "write", "ack"]).await;
    let [receive, chain, publish, confirm, write, ack] = &spans[..] else { panic!("{spans:?}") };
    // Both readers have a delivery of their own: one of them reads with all others, the other one with nobody.
    let read =
        [collector.named_by(&message.get("traceparent")).await, collector.named_by(&delivery.get("traceparent")).await];
    assert_eq!(hex(&receive.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(chain.parent_span_id, receive.span_id);
    assert_eq!(service.last().headers("traceparent"), [parent(chain)]);
    assert_eq!(service.last().headers("tracestate"), ["a=1"]);
    assert_eq!(publish.parent_span_id, chain.span_id);
    assert_eq!(confirm.parent_span_id, publish.span_id);
    for deliver in &read {
        assert_eq!(deliver.parent_span_id, publish.span_id);
        assert_eq!(attribute(deliver, "messaging.destination.name").as_deref(), Some("/topic/buy"));
    }
    assert!(read.iter().any(|deliver| deliver.span_id == write.parent_span_id));
    assert_eq!(ack.parent_span_id, read[1].span_id);
    assert_eq!(attribute(ack, "stompgate.settlement").as_deref(), Some("accept"));
    assert_eq!(attribute(receive, "messaging.destination.name").as_deref(), Some("/app/buy"));
    assert_eq!(attribute(receive, "messaging.message.body.size").as_deref(), Some("5"));
    assert_eq!(attribute(receive, "session.id").as_deref(), Some(sender.session.as_str()));
    assert_eq!(attribute(receive, "stompgate.outcome").as_deref(), Some("confirmed"));
    // OTLP: 0 is unset, 1 is ok, 2 is an error.
    let statuses: Vec<_> = spans.iter().map(|span| span.status.clone().unwrap_or_default().code).collect();
    assert_eq!(statuses, [0, 0, 0, 0, 1, 0]);
    for span in &spans {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    }
    assert!(receive.start_time_unix_nano <= chain.start_time_unix_nano);
    assert!(receive.end_time_unix_nano >= publish.end_time_unix_nano);
}

#[tokio::test]
async fn a_message_that_is_refused_and_one_in_a_transaction_are_recorded_too() {
    let collector = Collector::start().await;
    let gateway = gateway_with(|config| {
        exporting(collector.endpoint())(config);
        let http = HttpSettings { url: "http://127.0.0.1:1/".into(), ..HttpSettings::default() };
        config.app.route =
            vec![RouteSettings { pattern: "/app/x".into(), http: Some(http), ..RouteSettings::default() }];
    });
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does(&format!("SEND\ndestination:/app/x\ntraceparent:{PARENT}\n\n")).await.with("status", "502");
    let failed = collector.expect(&["chain"]).await;
    let status = failed[0].status.clone().expect("a status");
    assert_eq!((status.code, status.message.as_str()), (2, "502"));

    client.send("BEGIN\ntransaction:t").await;
    let parents = ["0000000000000007", "0000000000000008"];
    for parent in parents {
        let given = PARENT.replace("00f067aa0ba902b7", parent);
        client.send(format!("SEND\ndestination:/topic/a\ntransaction:t\ntraceparent:{given}\n\n")).await;
    }
    client.does("COMMIT\ntransaction:t").await;
    let mut ends = Vec::new();
    for parent in parents {
        let is_it = |span: &Span| span.name == "receive" && hex(&span.parent_span_id) == parent;
        ends.push(collector.until("a span of the transaction", is_it).await.end_time_unix_nano);
    }
    assert!(ends[1] >= ends[0], "all of it ends with the first: {ends:?}");
}

/// Puts every message into a trace of its own making.
struct Astray;

#[async_trait]
impl Interceptor for Astray {
    fn name(&self) -> &'static str {
        "astray"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        if matches!(event, Event::Send(_)) { Interest::Ordered } else { Interest::None }
    }

    async fn send(&self, mut message: Message, _: &Context) -> Result<Verdict, Rejection> {
        message.headers.set("traceparent", PARENT.replace("4bf9", "ffff"));
        Ok(Verdict::Continue(message))
    }
}

#[tokio::test]
async fn a_message_stays_in_its_trace_whatever_an_interceptor_writes() {
    let collector = Collector::start().await;
    let gateway = builder(exporting(collector.endpoint())).interceptor(Astray).start().expect("a gateway");
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does(&format!("SEND\ndestination:/topic/a\ntraceparent:{PARENT}\n\n")).await;
    let spans = collector.expect(&["receive", "publish"]).await;
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
}

#[tokio::test]
async fn what_is_not_written_is_recorded_as_an_error() {
    let collector = Collector::start().await;
    let gateway = gateway_with(|config| {
        exporting(collector.endpoint())(config);
        config.outbox.max_bytes = 64 * 1024;
        let when_full = WhenFull::DropNewest;
        config.outbox.policy = vec![OutboxPolicy { destination: "/topic/flood".to_owned(), when_full, key: None }];
    });
    let mut slow = Client::connect_narrow(&gateway, "1.2").await;
    slow.subscribe("id:0\ndestination:/topic/flood").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let body = "x".repeat(16 * 1024);
    let is_lost = |span: &Span| span.name == "write" && span.status.as_ref().is_some_and(|status| status.code == 2);
    soon("a message to be dropped", async {
        while !collector.spans().iter().any(is_lost) {
            writer.does(&format!("SEND\ndestination:/topic/flood\ntraceparent:{PARENT}\n\n{body}")).await;
        }
    })
    .await;
    let lost = collector.until("a message that is not written", is_lost).await;
    assert_eq!(lost.status.expect("a status").message, "not written");
}

#[tokio::test]
async fn a_long_name_is_cut_between_two_characters() {
    let collector = Collector::start().await;
    let gateway = gateway_with(exporting(collector.endpoint()));
    let mut client = Client::connect(&gateway, "1.2").await;
    let topic = format!("/topic/{}", "ü".repeat(200)); // too long for a RabbitMQ: it is recorded all the same
    client.send(format!("SEND\ndestination:{topic}\ntraceparent:{PARENT}\n\n")).await;
    let received = collector.expect(&["receive"]).await;
    let shown = attribute(&received[0], "messaging.destination.name").expect("a destination");
    assert_eq!(shown.len(), 255, "{shown}");
    assert!(topic.starts_with(&shown), "{shown}");
}

#[tokio::test]
async fn what_is_recorded_is_for_the_settings_to_say() {
    let collector = Collector::start().await;
    let all = gateway_with(|config| {
        exporting(collector.endpoint())(config);
        config.traces.sample_one_in = 1;
    });
    let mut client = Client::connect(&all, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\n\n").await;
    let begun = client.expect("MESSAGE").await.get("traceparent");
    assert!(begun.starts_with("00-") && begun.ends_with("-01"), "{begun}");
    // Who began the trace has decided already that it is not recorded.
    let unsampled = PARENT.replace("-01", "-00");
    client.send(format!("SEND\ndestination:/topic/a\ntraceparent:{unsampled}\n\n")).await;
    client.expect("MESSAGE").await.with("traceparent", &unsampled);

    let few = gateway_with(|config| {
        exporting(collector.endpoint())(config);
        config.traces.sample_one_in = u32::MAX;
        config.traces.follow_clients = false;
    });
    let mut client = Client::connect(&few, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/b").await;
    client.send(format!("SEND\ndestination:/topic/b\ntraceparent:{PARENT}\ntracestate:a=1\n\n")).await;
    client.expect("MESSAGE").await.with("traceparent", &unsampled).with("tracestate", "a=1");
    client.send("SEND\ndestination:/topic/b\n\n").await;
    client.expect("MESSAGE").await.without("traceparent");

    let trace = begun[3..35].to_owned();
    let is_it = |span: &Span| span.name == "write" && hex(&span.trace_id) == trace;
    collector.until("the trace that began here", is_it).await;
    assert!(collector.spans().iter().all(|span| hex(&span.trace_id) == trace), "nothing else is recorded");
}

#[tokio::test]
async fn a_collector_that_does_not_answer_costs_clients_nothing_and_the_rest_is_counted() {
    let silent = Service::start([Answer::Silence]).await;
    let gateway = gateway_with(|config| {
        exporting(format!("http://{}/v1/traces", silent.address))(config);
        config.traces.max_queue = 10;
        config.traces.max_batch = 10;
        config.traces.timeout = Duration::from_millis(100);
    });
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    for outcome in ["dropped", "failed"] {
        let series = format!("stompgate_spans_total{{outcome=\"{outcome}\"}}");
        soon(&series, async {
            while metric(&gateway, &series).await == 0 {
                for _ in 0..20 {
                    client.send(format!("SEND\ndestination:/topic/a\ntraceparent:{PARENT}\n\n")).await;
                    client.expect("MESSAGE").await;
                }
            }
        })
        .await;
    }
    assert_eq!(metric(&gateway, "stompgate_spans_total{outcome=\"exported\"}").await, 0);
}

#[tokio::test]
async fn what_waits_at_the_end_is_exported_with_the_token() {
    let collector = Collector::start().await;
    let gateway = gateway_with(|config| {
        exporting(collector.endpoint())(config);
        config.traces.interval = Duration::from_hours(1);
        config.traces.token = Some("let-me-in".into());
    });
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does(&format!("SEND\ndestination:/topic/a\ntraceparent:{PARENT}\n\n")).await;
    assert!(collector.spans().is_empty(), "they wait for more");
    client.disconnect().await;
    gateway.shut_down().await;
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(collector.0.last().headers("authorization"), ["Bearer let-me-in"]);
}
