//! What was recorded, and what follows from it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// How much more a piece may take than recorded, in hundredths. Between processes the seeds of hash maps differ, and between
/// machines what libc makes of `memcpy`; both were seen to change less than half of a hundredth.
pub(crate) const TOLERANCE: f64 = 2.0;

/// `counts.txt`.
pub(crate) struct Recorded {
    /// What it was recorded with.
    pub(crate) compiler: String,
    /// Name, and instructions per unit.
    pub(crate) counts: Vec<(String, f64)>,
}

/// How a count stands to the one recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Within the tolerance; by how many hundredths it differs.
    Same { percent: f64 },
    /// Better.
    Less { recorded: f64, percent: f64 },
    /// Worse: this fails.
    More { recorded: f64, percent: f64 },
    /// Nothing is recorded: this fails, too.
    Unknown,
}

impl Recorded {
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
        let wrong = |line: &str| io::Error::other(format!("{}: not a name and a number: {line}", file.display()));
        let mut recorded = Recorded { compiler: String::new(), counts: Vec::new() };
        for line in text.lines() {
            match line.split_once(": ") {
                None if line.starts_with('#') || line.is_empty() => {}
                Some(("# with", compiler)) => compiler.clone_into(&mut recorded.compiler),
                Some((name, count)) if !name.starts_with('#') => {
                    recorded.counts.push((name.to_owned(), count.trim().parse().map_err(|_| wrong(line))?));
                }
                Some(_) => {}
                None => return Err(wrong(line)),
            }
        }
        Ok(recorded)
    }

    pub(crate) fn judge(&self, name: &str, counted: f64) -> Verdict {
        let Some((_, recorded)) = self.counts.iter().find(|(known, _)| known == name) else {
            return Verdict::Unknown;
        };
        let (recorded, percent) = (*recorded, (counted / recorded - 1.0) * 100.0);
        match percent {
            percent if percent > TOLERANCE => Verdict::More { recorded, percent },
            percent if percent < -TOLERANCE => Verdict::Less { recorded, percent },
            percent => Verdict::Same { percent },
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Instructions for each frame, message or delivery, of the pieces in src/lib.rs.")?;
        writeln!(f, "# Written by {}; see bench/README.md.", super::ACCEPT)?;
        writeln!(f, "# with: {}", self.compiler)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name}: {count:.1}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Same { percent } => write!(f, "as recorded ({percent:+.2} %)"),
            Verdict::Less { recorded, percent } => {
                write!(f, "{percent:+.1} %: less than the {recorded} recorded; to be kept by {}", super::ACCEPT)
            }
            Verdict::More { recorded, percent } => {
                write!(f, "FAILED: {percent:+.1} %: {recorded} were recorded, and {TOLERANCE} % more may be")
            }
            Verdict::Unknown => write!(f, "FAILED: nothing is recorded for it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Recorded {
        Recorded {
            compiler: "rustc 1.95.0, here".into(),
            counts: vec![("decode".into(), 1000.0), ("route".into(), 2.5)],
        }
    }

    #[test]
    fn only_what_is_clearly_more_or_unknown_fails() {
        let judge = |counted| recorded().judge("decode", counted);
        assert!(matches!(judge(1019.0), Verdict::Same { .. }));
        assert!(matches!(judge(981.0), Verdict::Same { .. }));
        assert!(matches!(judge(1021.0), Verdict::More { .. }));
        assert!(matches!(judge(979.0), Verdict::Less { .. }));
        assert_eq!(recorded().judge("encode", 1.0), Verdict::Unknown);
    }

    #[test]
    fn a_failure_says_what_was_recorded_and_by_how_much_more_it_is() {
        let text = recorded().judge("decode", 1100.0).to_string();
        assert!(text.starts_with("FAILED: +10.0 %: 1000 were recorded"), "{text}");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let file = std::env::temp_dir().join(format!("stompgate-counts-{}", std::process::id()));
        fs::write(&file, recorded().to_string()).unwrap();
        let read = Recorded::read(&file);
        fs::remove_file(&file).unwrap();
        let read = read.unwrap();
        assert_eq!((read.compiler, read.counts), (recorded().compiler, recorded().counts));
    }
}
