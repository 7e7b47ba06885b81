//! The steps of a command: each is announced, timed, and listed again at the end.
//!
//! A step that fails does not stop the ones after it, so that one run shows everything that is wrong. Colour is used
//! only where standard output is a terminal and `NO_COLOR` is not set.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::child::Error;

/// How a step ended.
pub enum Outcome {
    /// All of it was done.
    Done,
    /// It, or a part of it, was left out, for this reason.
    Skipped(String),
    /// It failed, for this reason.
    Failed(String),
}

struct Step {
    name: String,
    outcome: Outcome,
    took: Duration,
}

/// The steps so far.
#[derive(Default)]
pub struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    /// Does one step, and says whether it was done or skipped rather than failed.
    pub fn run<T>(&mut self, name: &str, work: T) -> bool
    where
        T: FnOnce() -> Result<Outcome, Error>,
    {
        println!("\n{}", paint("1", &format!("== {name}")));
        let start = Instant::now();
        let outcome = work().unwrap_or_else(|error| Outcome::Failed(error.to_string()));
        match &outcome {
            Outcome::Done => {}
            Outcome::Skipped(why) => println!("{} {}", paint("33", "skipped:"), indented(why)),
            Outcome::Failed(why) => println!("{} {}", paint("31", "FAILED:"), indented(why)),
        }
        let passed = !matches!(outcome, Outcome::Failed(_));
        self.steps.push(Step { name: name.to_owned(), outcome, took: start.elapsed() });
        passed
    }

    /// Lists a step that is not done at all.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.run(name, || Ok(Outcome::Skipped(why.to_owned())));
    }

    /// Prints every step with its outcome and duration.
    pub fn print_summary(&self) {
        println!("\n{}", paint("1", "== summary"));
        let width = self.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        for Step { name, outcome, took } in &self.steps {
            let (verdict, why) = match outcome {
                Outcome::Done => (paint("32", "ok     "), ""),
                Outcome::Skipped(why) => (paint("33", "skipped"), why.as_str()),
                Outcome::Failed(why) => (paint("31", "FAILED "), why.as_str()),
            };
            let took = took.as_secs_f64();
            let line = format!("{verdict}  {name:width$}  {took:>7.1} s  {}", indented(why));
            println!("{}", line.trim_end());
        }
    }

    /// An error that names the steps that failed, if any did.
    pub fn verdict(&self) -> Result<(), Error> {
        let failed = self.steps.iter().filter(|step| matches!(step.outcome, Outcome::Failed(_)));
        let failed: Vec<_> = failed.map(|step| step.name.as_str()).collect();
        if failed.is_empty() { Ok(()) } else { Err(Error::Steps(failed.join(", "))) }
    }
}

/// A reason of several lines, so that the later ones are seen to belong to the first.
fn indented(why: &str) -> String {
    why.replace('\n', "\n         ")
}

/// `text` in an ANSI style where a person looks at it.
pub fn paint(style: &str, text: &str) -> String {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if no_colour || !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    format!("\x1b[{style}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_the_steps_that_failed_and_no_other() {
        let mut steps = Steps::default();
        assert!(steps.run("one", || Ok(Outcome::Done)));
        steps.skip("two", "not today");
        assert!(steps.verdict().is_ok());
        let broken = || Err(Error::Missing { what: "no cc".into(), remedy: "get one".into() });
        assert!(!steps.run("three", broken));
        assert!(!steps.run("four", || Ok(Outcome::Failed("bad".into()))));
        let verdict = steps.verdict().unwrap_err().to_string();
        assert!(verdict.starts_with("three, four failed"), "{verdict}");
    }
}
