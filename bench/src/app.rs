//! What a round trip through `/app` costs: one client that sends and waits for its RECEIPT, in turn to a route that an HTTP
//! service answers, to a route without a service, and to a topic that needs no route. The service is a thread of this
//! program, with one connection at a time and an answer of a few bytes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::latency::percentile;
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::Report;
use crate::wire;

const CALLED: &str = "/app/called";
const FORWARDED: &str = "/app/forwarded";
const PLAIN: &str = "/topic/plain";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
/// Round trips that are not counted: connections are made, memory is warm.
const WARM_UP: u64 = 50;

/// Runs the scenario; what stands beside the gateway's routes is its own topic.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let service = TcpListener::bind("127.0.0.1:0")?;
    let routes = format!(
        "app.route=[{{ pattern = \"{CALLED}\", http = {{ url = \"http://{}/\" }} }}, {{ pattern = \"{FORWARDED}\" }}]",
        service.local_addr()?
    );
    thread::spawn(move || serve(&service));
    let mut gateway = gateway.clone();
    gateway.settings.push(routes);
    let (mut times, mut cpu) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for round in 0..plan.rounds {
        let server = gateway.start()?;
        let client = Client::connect(server.address(), 0).await?;
        for turn in 0..3 {
            let which = (round + turn) % 3;
            let destination = [PLAIN, FORWARDED, CALLED][which];
            for number in 0..WARM_UP {
                round_trip(&client, destination, number).await?;
            }
            let (meter, start, mut taken) = (server.meter()?, Instant::now(), Vec::new());
            while start.elapsed() < plan.round {
                taken.push(round_trip(&client, destination, WARM_UP).await?);
            }
            let usage = meter.read(&server)?;
            cpu[which].push(usage.server / taken.len() as f64);
            taken.sort_unstable();
            times[which].push(percentile(&taken, 50));
        }
    }
    let ([plain_time, forwarded_time, called_time], [plain_cpu, forwarded_cpu, called_cpu]) = (times, cpu);
    let mut add = |scenario: &str, measure, values, plain: &[f64]| {
        report.add_beside("SEND to a topic", scenario, measure, values, plain);
    };
    add("/app, answered by an HTTP service", "p50 of SEND to RECEIPT, µs", called_time, &plain_time);
    add("/app, answered by an HTTP service", "CPU, µs", called_cpu, &plain_cpu);
    add("/app, sent on by a route", "p50 of SEND to RECEIPT, µs", forwarded_time, &plain_time);
    add("/app, sent on by a route", "CPU, µs", forwarded_cpu, &plain_cpu);
    Ok(())
}

/// Nanoseconds from a SEND to its RECEIPT, which must be for success.
pub(crate) async fn round_trip(client: &Client, destination: &str, number: u64) -> io::Result<u64> {
    let start = Instant::now();
    client.send(&wire::send(destination, Some(number), number, 0)).await?;
    let mut is_answered = false;
    while !is_answered {
        client
            .read(|frame| {
                is_answered = frame.starts_with(b"RECEIPT\n");
                if wire::header(frame, "status").is_some() {
                    return Err(io::Error::other(String::from_utf8_lossy(frame).into_owned()));
                }
                Ok(())
            })
            .await?;
    }
    Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn serve(service: &TcpListener) {
    for stream in service.incoming().flatten() {
        thread::spawn(move || answer(stream));
    }
}

/// Answers every request of a connection; its body has a length, as the gateway's has.
fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line == "\r\n" {
                break;
            }
        }
        io::copy(&mut io::Read::take(&mut reader, length), &mut io::sink())?;
        writer.write_all(ANSWER)?;
    }
}
