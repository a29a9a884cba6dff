//! The gateway's program: arguments → configuration → telemetry → run → exit code.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stompgate::config::{Config, Flag, Loaded, Sources};
use stompgate::server::admin;
use stompgate::{gateway, telemetry};

/// The configuration is wrong, as with an argument that clap refuses.
const WRONG_CONFIGURATION: u8 = 2;

/// A gateway between browsers and message queues: STOMP over WebSocket.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Read settings from this TOML file
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Listen on this address and port [server.listen, default 127.0.0.1:8080]
    #[arg(short, long, value_name = "ADDRESS", global = true)]
    listen: Option<String>,
    /// Give a setting a value; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_and_value, global = true)]
    set: Vec<(String, String)>,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// Run the gateway (this is what happens without a command)
    Run,
    /// Check all settings and exit: 0 if they are good, 2 if not
    Check,
    /// Print the settings in force and where each comes from, secrets masked
    Config,
    /// Ask the gateway that runs with these settings whether it is alive: exit code 0 if it is, 1 if not
    Health,
}

const AFTER_HELP: &str = "\
Settings come from, the later ones winning:
  1. built-in defaults
  2. the file of --config
  3. environment variables STOMPGATE_SECTION__KEY, two underscores for each dot:
     STOMPGATE_SERVER__LISTEN is server.listen, STOMPGATE_SERVER__TLS__KEY is server.tls.key
  4. --listen and --set

Examples:
  stompgate                                        run on ws://127.0.0.1:8080/ws with the embedded broker
  stompgate --config stompgate.toml check          say what is wrong with a file
  stompgate config                                 list every setting
  stompgate --set server.path=/stomp --set 'server.allowed_origins=[\"https://app.example.com\"]'";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or(Command::Run);
    let sources = arguments.sources();
    let loaded = match Config::load(&sources) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("stompgate: {error}");
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    match command {
        Command::Run => run(loaded, sources),
        Command::Check => {
            let server = &loaded.config.server;
            let scheme = if server.tls.files().is_some() { "wss" } else { "ws" };
            println!(
                "The configuration is good; the gateway would listen on {scheme}://{}{}",
                server.listen, server.path
            );
            ExitCode::SUCCESS
        }
        Command::Config => {
            print!("{}", loaded.effective());
            ExitCode::SUCCESS
        }
        Command::Health => match ask_health(&loaded.config.admin) {
            Ok(answer) => {
                print!("{answer}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("stompgate: {why}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(Loaded { config, .. }: Loaded, sources: Sources) -> ExitCode {
    let log = telemetry::start(&config.log);
    let read = move || Config::load(&sources).map(|loaded| loaded.config).map_err(|error| error.to_string());
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(gateway::run(config, log, read)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stompgate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What `/healthz` answers: the health check of an image that has no other program to ask with.
fn ask_health(settings: &admin::Settings) -> Result<String, String> {
    /// More than any answer has.
    const LARGEST: u64 = 64 * 1024;
    if !settings.enabled {
        return Err("admin.enabled is off, so there is nobody to ask".to_owned());
    }
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, settings.timeout)?;
        stream.set_read_timeout(Some(settings.timeout))?;
        stream.set_write_timeout(Some(settings.timeout))?;
        write!(stream, "GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(LARGEST).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("no answer at admin.listen, {address}: {error}"))?;
    let alive = answer.strip_prefix("HTTP/1.1 200 ").and_then(|answer| answer.split_once("\r\n\r\n"));
    alive
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| format!("admin.listen, {address}, answers {:?}", answer.lines().next().unwrap_or_default()))
}

impl Arguments {
    fn sources(self) -> Sources {
        let flag = |name: &str, key, text| Flag { name: name.to_owned(), key, text };
        let listen = self.listen.map(|address| flag("--listen", "server.listen".to_owned(), address));
        let set = self.set.into_iter().map(|(key, value)| flag("--set", key, value));
        Sources {
            file: self.config,
            environment: std::env::vars_os().collect(),
            flags: listen.into_iter().chain(set).collect(),
        }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as server.path=/stomp".to_owned()),
    }
}
