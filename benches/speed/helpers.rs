//! Processes that do something a number of times, or for a time. A line with a number goes in, and another number comes
//! out, usually the seconds.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

pub struct Helper {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    fn start(command: &mut Command) -> Option<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let (input, output) = (child.stdin.take()?, BufReader::new(child.stdout.take()?).lines());
        Some(Helper { child, input, output })
    }

    /// The sequence of the Python reference. `None`: there is no Python.
    pub fn python(verb: &str, dir: &Path) -> Option<Self> {
        Self::start(Command::new("python3").args(["-c", include_str!("reference.py"), verb]).arg(dir))
    }

    /// This program again, for one way of a contest.
    pub fn way(contest: &str, way: &str, dir: &Path) -> Option<Self> {
        Self::start(Command::new(std::env::current_exe().ok()?).args(["help", contest, way]).arg(dir))
    }

    /// This program again, for a curve.
    pub fn curve(role: &str, way: &str, dir: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::start(Command::new(program).args(["curve", role, way]).arg(dir)).expect("this program, started again")
    }

    pub fn tell(&mut self, times: u64) {
        writeln!(self.input, "{times}").unwrap();
    }

    pub fn hear(&mut self) -> f64 {
        self.output.next().expect("an answer of a helper").unwrap().parse().unwrap()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It waits for a request, or has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the helper: runs the requests.
pub fn serve(mut once: impl FnMut(u64)) {
    answer(|times| {
        let start = Instant::now();
        (0..times).for_each(&mut once);
        start.elapsed().as_secs_f64()
    });
}

/// In the helper: answers each number.
pub fn answer(mut to: impl FnMut(u64) -> f64) {
    for line in std::io::stdin().lines() {
        let number = line.unwrap().parse().unwrap();
        println!("{}", to(number));
    }
}
