//! Counts the instructions of each piece by valgrind's callgrind, and compares them with what was recorded.
//!
//! `bench/counted/run` builds and starts it; `bench/README.md` says more.

mod recorded;

use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use counted::{Named, PIECES, Piece};
use recorded::{Recorded, Verdict};

/// What renews the record.
const ACCEPT: &str = "bench/counted/run --accept";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--piece", name] => run(name),
        [] => compare(),
        ["--accept"] => accept(),
        _ => Err("usage: counted [--accept]".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("counted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Under valgrind: the piece once, for what is only done the first time, and then while it is counted.
fn run(name: &str) -> Result<bool, Box<dyn Error>> {
    let mut piece = ready(name)?;
    piece.run();
    count_instructions(&mut piece);
    Ok(true)
}

/// The function that callgrind counts in, with what it calls.
#[inline(never)]
fn count_instructions(piece: &mut Piece) {
    black_box(piece).run();
}

/// Holds what is counted against the record.
fn compare() -> Result<bool, Box<dyn Error>> {
    let (recorded, compiler) = (Recorded::read(&file())?, compiler()?);
    println!("instructions for each frame, message or delivery; recorded: {}; here: {compiler}", recorded.compiler);
    let mut failed = 0;
    for Named { name, .. } in PIECES {
        let counted = count(name)?;
        let verdict = recorded.judge(name, counted);
        println!("{name:10} {counted:9.1}  {verdict}");
        failed += usize::from(matches!(verdict, Verdict::More { .. } | Verdict::Unknown));
    }
    if failed > 0 {
        println!("What makes it slower is to be found, or accepted: {ACCEPT}, and a commit that says why.");
    }
    println!("{} passed, {failed} failed", PIECES.len() - failed);
    Ok(failed == 0)
}

/// Writes a new record.
fn accept() -> Result<bool, Box<dyn Error>> {
    let counts = PIECES.iter().map(|piece| Ok((piece.name.to_owned(), count(piece.name)?)));
    let recorded = Recorded { compiler: compiler()?, counts: counts.collect::<Result<_, Box<dyn Error>>>()? };
    fs::write(file(), recorded.to_string())?;
    print!("{recorded}");
    Ok(true)
}

/// Instructions of a piece, per unit.
#[expect(clippy::cast_precision_loss, reason = "far below 2 to the power of 52")]
fn count(name: &str) -> Result<f64, Box<dyn Error>> {
    let out = env::temp_dir().join(format!("stompgate-counted-{}-{name}", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*count_instructions*"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    let output = command.arg(env::current_exe()?).args(["--piece", name]).output();
    let output = output.map_err(|error| format!("valgrind: {error} (Debian's package valgrind)"))?;
    let counts = fs::read_to_string(&out);
    let _ = fs::remove_file(&out);
    if !output.status.success() {
        return Err(format!("{name}: valgrind failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let total = counts?.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    match total {
        Some(total) if total > 0 => Ok(total as f64 / ready(name)?.units as f64),
        _ => Err(format!("{name}: callgrind counted nothing").into()),
    }
}

fn ready(name: &str) -> Result<Piece, Box<dyn Error>> {
    let piece = PIECES.iter().find(|piece| piece.name == name);
    piece.map(|piece| (piece.ready)()).ok_or_else(|| format!("there is no piece {name}").into())
}

/// What the counts depend on beside the code: `rustc 1.95.0, x86_64-unknown-linux-gnu`.
fn compiler() -> Result<String, Box<dyn Error>> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).ok_or("rustc -vV says too little");
    Ok(format!("rustc {}, {}", field("release: ")?, field("host: ")?))
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt")
}
