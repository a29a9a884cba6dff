//! The gateway's program: arguments → configuration → telemetry → run → exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stompgate::config::{Config, Flag, Loaded, Sources};
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
    let loaded = match Config::load(&arguments.sources()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("stompgate: {error}");
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    match command {
        Command::Run => run(loaded),
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
    }
}

fn run(Loaded { config, .. }: Loaded) -> ExitCode {
    telemetry::start(&config.log);
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(gateway::run(config)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stompgate: {error}");
            ExitCode::FAILURE
        }
    }
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
