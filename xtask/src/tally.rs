//! What the test runners said: totals, and everything that was skipped.
//!
//! Two kinds of skip exist. An *ignored* test was not run, and its runner prints `test NAME ... ignored, REASON`. A test
//! that ran and found that the machine lacks something prints a line `SKIPPED: REASON` and returns; libtest shows what
//! passing tests print when it is given `--show-output`. Both are counted here and printed together.

use crate::steps::paint;

/// Totals and skips of one or more runners.
#[derive(Default)]
pub struct Tally {
    runners: usize,
    passed: usize,
    failed: usize,
    ignored: usize,
    failures: Vec<String>,
    skips: Vec<(String, usize)>,
    /// The test whose captured output is being printed.
    speaker: Option<String>,
    /// Whether the runner is printing what passing tests wrote.
    in_successes: bool,
}

impl Tally {
    /// Takes in one line of a runner's output, and says whether it is worth showing: what passing tests wrote is not.
    pub fn read(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ if line.starts_with("test result: ") => self.in_successes = false,
            _ => {}
        }
        self.count(line.trim());
        !self.in_successes
    }

    fn count(&mut self, line: &str) {
        if let Some(totals) = line.strip_prefix("test result: ") {
            self.read_totals(totals);
        } else if let Some(header) = line.strip_prefix("---- ") {
            self.speaker = header.strip_suffix(" stdout ----").map(str::to_owned);
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some((name, reason)) = test.split_once(" ... ignored")
        {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() { "no reason is given" } else { reason };
            self.skipped(format!("{name}: ignored: {reason}"));
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some(name) = test.strip_suffix(" ... FAILED")
        {
            self.failures.push(name.to_owned());
        } else if let Some(reason) = skip_reason(line) {
            let speaker = self.speaker.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
            self.skipped(format!("{speaker}{reason}"));
        }
    }

    /// `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn read_totals(&mut self, totals: &str) {
        self.runners += 1;
        self.speaker = None;
        let counts = totals.split_once(". ").map_or("", |(_verdict, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn skipped(&mut self, skip: String) {
        match self.skips.iter_mut().find(|(known, _)| *known == skip) {
            Some((_, times)) => *times += 1,
            None => self.skips.push((skip, 1)),
        }
    }

    /// Prints the totals, the tests that failed, and every skip with its reason.
    pub fn print(&self) {
        let Tally { runners, passed, failed, ignored, .. } = self;
        println!();
        if *runners > 0 {
            println!(
                "tests: {passed} passed; {failed} failed; {ignored} ignored, in {runners} runs"
            );
        }
        for name in &self.failures {
            println!("  {} {name}", paint("31", "FAILED"));
        }
        let skips: usize = self.skips.iter().map(|(_, times)| times).sum();
        if skips == 0 {
            println!("skipped inside the runs: nothing");
            return;
        }
        println!("{}", paint("1;33", &format!("SKIPPED INSIDE THE RUNS: {skips}")));
        for (skip, times) in &self.skips {
            let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
            println!("  {skip}{times}");
        }
    }
}

/// The reason in a line that says `SKIPPED: …`, which may follow a runner's unfinished `test NAME ... `.
fn skip_reason(line: &str) -> Option<&str> {
    let line = line.rsplit_once(" ... ").map_or(line, |(_test, rest)| rest);
    line.strip_prefix("SKIPPED:").map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        for line in output.lines() {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn totals_of_several_runners_add_up() {
        let tally = tally(
            "test a::b ... FAILED\n\
             test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s",
        );
        assert_eq!((tally.runners, tally.passed, tally.failed, tally.ignored), (2, 7, 3, 1));
        assert_eq!(tally.failures, ["a::b"]);
    }

    #[test]
    fn every_skip_keeps_its_reason_and_the_test_that_said_it() {
        let tally = tally(
            "SKIPPED: no Vulkan device\n\
             test slow ... ignored, takes an hour\n\
             test src/lib.rs - f (line 3) ... ignored\n\
             test mimic ... SKIPPED: no fio\n\
             successes:\n\
             ---- copies::of_planes stdout ----\n\
             SKIPPED: no udmabuf\n\
             SKIPPED: no udmabuf\n\
             test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out\n\
             SKIPPED: no network",
        );
        let skips: Vec<_> =
            tally.skips.iter().map(|(skip, times)| (skip.as_str(), *times)).collect();
        assert_eq!(
            skips,
            [
                ("no Vulkan device", 1),
                ("slow: ignored: takes an hour", 1),
                ("src/lib.rs - f (line 3): ignored: no reason is given", 1),
                ("no fio", 1),
                ("copies::of_planes: no udmabuf", 2),
                ("no network", 1),
            ]
        );
    }

    #[test]
    fn the_output_of_passing_tests_is_read_and_not_shown() {
        let output = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nSKIPPED: no device\nchatter\n\n\
                      successes:\n    a\n\nfailures:\n---- b stdout ----\nwrong\ntest result: FAILED. 1 passed";
        let mut tally = Tally::default();
        let shown: Vec<_> = output.lines().filter(|line| tally.read(line)).collect();
        assert_eq!(
            shown,
            [
                "test a ... ok",
                "",
                "failures:",
                "---- b stdout ----",
                "wrong",
                "test result: FAILED. 1 passed"
            ]
        );
        assert_eq!(tally.skips, [("a: no device".to_owned(), 1)]);
    }

    #[test]
    fn text_that_only_mentions_a_skip_is_not_one() {
        let tally = tally("the word SKIPPED: in a sentence\nwarning: test x is ignored");
        assert!(tally.skips.is_empty());
    }
}
