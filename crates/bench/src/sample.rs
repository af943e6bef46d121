//! Samples, medians and tables.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A series of times of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) name: String,
    times: Vec<Duration>,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            times: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    fn at(&self, fraction: f64) -> f64 {
        let mut sorted = self.times.clone();
        sorted.sort();
        let index = ((sorted.len() as f64 - 1.0) * fraction).round() as usize;
        sorted
            .get(index)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    /// Milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// Runs a command to its end; fails loudly when it does not end with 0.
pub(crate) fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let elapsed = start.elapsed();
    assert!(status.success(), "{command:?} ended with {status}");
    elapsed
}

/// What is measured: a name and a way to make the command for a round.
pub(crate) struct Subject<'a> {
    pub(crate) name: String,
    pub(crate) command: Box<dyn FnMut(usize) -> Command + 'a>,
}

impl std::fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Measures all subjects in turn, so that what the host does meanwhile hits all
/// alike. The first two rounds warm up and are not counted.
pub(crate) fn in_turn(subjects: &mut [Subject<'_>], rounds: usize, pause: Duration) -> Vec<Series> {
    let names: Vec<_> = subjects
        .iter()
        .map(|subject| subject.name.clone())
        .collect();
    in_turn_by(&names, rounds, |subject, round| {
        let mut command = (subjects[subject].command)(round);
        std::thread::sleep(pause);
        time(&mut command)
    })
}

/// The same for what `measure` does, given the number of the subject and of the
/// round.
pub(crate) fn in_turn_by(
    names: &[impl AsRef<str>],
    rounds: usize,
    mut measure: impl FnMut(usize, usize) -> Duration,
) -> Vec<Series> {
    let mut series: Vec<_> = names
        .iter()
        .map(|name| Series::new(name.as_ref()))
        .collect();
    for round in 0..rounds + 2 {
        for (subject, series) in series.iter_mut().enumerate() {
            let elapsed = measure(subject, round);
            if round >= 2 {
                series.add(elapsed);
            }
        }
    }
    series
}

/// Prints one block; ratios are to the first row.
pub(crate) fn table(title: &str, series: &[Series]) {
    println!("{title}");
    println!(
        "  {:<34}{:>10}{:>10}{:>10}{:>9}",
        "", "median ms", "10 %", "90 %", "ratio"
    );
    let base = series.first().map_or(f64::NAN, Series::median);
    for row in series {
        println!(
            "  {:<34}{:>10.2}{:>10.2}{:>10.2}{:>8.1}×",
            row.name,
            row.median(),
            row.at(0.1),
            row.at(0.9),
            row.median() / base
        );
    }
    println!();
}
