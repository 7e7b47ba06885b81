//! The steps of a command: each is announced, timed, and listed again at the end.
//!
//! A step that fails does not stop the ones after it, so that one run shows everything that is wrong. Colour is used
//! only where standard output is a terminal and `NO_COLOR` is not set.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::thread;
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
        announce(name);
        let start = Instant::now();
        let outcome = work();
        self.end(name, outcome, start.elapsed())
    }

    /// Does steps beside each other, `at_once` of them at a time. What each has to say is shown when it has ended.
    pub fn run_together<T>(
        &mut self,
        steps: Vec<(String, T)>,
        at_once: usize,
        show: impl FnMut(&str) + Send,
    ) where
        T: FnOnce(&mut Vec<String>) -> Result<Outcome, Error> + Send,
    {
        let waiting = Mutex::new(VecDeque::from(steps));
        let ended = Mutex::new((self, show));
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let next =
                            waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some((name, work)) = next else { return };
                        println!("\n{}", paint("1", &format!("== {name}: begins beside others")));
                        let (start, mut lines) = (Instant::now(), Vec::new());
                        let outcome = work(&mut lines);
                        let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                        let (steps, show) = &mut *ended;
                        announce(&name);
                        lines.iter().for_each(|line| show(line));
                        steps.end(&name, outcome, start.elapsed());
                    }
                });
            }
        });
    }

    fn end(&mut self, name: &str, outcome: Result<Outcome, Error>, took: Duration) -> bool {
        let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(error.to_string()));
        match &outcome {
            Outcome::Done => {}
            Outcome::Skipped(why) => println!("{} {}", paint("33", "skipped:"), indented(why)),
            Outcome::Failed(why) => println!("{} {}", paint("31", "FAILED:"), indented(why)),
        }
        let passed = !matches!(outcome, Outcome::Failed(_));
        self.steps.push(Step { name: name.to_owned(), outcome, took });
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

fn announce(name: &str) {
    println!("\n{}", paint("1", &format!("== {name}")));
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

    #[test]
    fn steps_beside_each_other_each_have_their_say() {
        let mut steps = Steps::default();
        let all = (0..5).map(|i| {
            let work = move |lines: &mut Vec<String>| {
                lines.push(format!("{i} begins"));
                thread::sleep(Duration::from_millis(5));
                lines.push(format!("{i} ends"));
                Ok(if i == 3 { Outcome::Failed("bad".into()) } else { Outcome::Done })
            };
            (format!("step {i}"), work)
        });
        let mut said = Vec::new();
        steps.run_together(all.collect(), 2, |line| said.push(line.to_owned()));
        assert_eq!((steps.steps.len(), said.len()), (5, 10));
        assert!(said.chunks(2).all(|pair| pair[0].split(' ').next() == pair[1].split(' ').next()));
        let verdict = steps.verdict().unwrap_err().to_string();
        assert!(verdict.starts_with("step 3 failed"), "{verdict}");
    }
}
