//! The program `crash-lab`: its verdicts, the states that it keeps, its output and exit status. All on ext4, with few
//! states.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::{Command, Output};

    use crash_lab::calls;
    use crash_lab::disk::{Event, Image};
    use crash_lab::file_system::FILE_SYSTEMS;
    use crash_lab::states::Recording;
    use libtest_mimic::Trial;
    use serde_json::Value;
    use tempfile::TempDir;

    const GOOD: &str = "cat > {path}.new && sync {path}.new && mv {path}.new {path} && sync {dir}";
    const BAD: &str = "cat > {path}";

    pub fn all() -> Vec<Trial> {
        let ext4 = FILE_SYSTEMS[0].missing();
        let root = (!nix::unistd::geteuid().is_root()).then(|| "needs root".to_owned());
        let test = |missing: &Option<String>, name: &str, body: fn()| {
            let name = missing.as_ref().map_or(name.to_owned(), |missing| format!("{name} [{missing}]"));
            let run = move || {
                body();
                Ok(())
            };
            Trial::test(name, run).with_ignored_flag(missing.is_some())
        };
        vec![
            test(&ext4, "a good writer gives 0", a_good_writer),
            test(&ext4, "a bad writer gives 1, and its state is kept", a_bad_writer),
            test(&ext4, "the value is what --read prints, and broken where it fails", another_value),
            test(&ext4, "a disk that lies, and one that fails", other_disks),
            test(&ext4, "what cannot be judged gives 2", what_cannot_be_judged),
            test(&None, "wrong usage gives 2", wrong_usage),
            test(&None, "a seed repeats", a_seed_repeats),
            test(&root, "a program is stopped before each change", stopped_before_each_change),
        ]
    }

    fn crash_lab(args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_crash-lab")).args(args).output().unwrap()
    }

    #[track_caller]
    fn status(output: &Output, expected: i32) -> String {
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert_eq!(output.status.code(), Some(expected), "{out}{err}");
        out + &err
    }

    fn a_good_writer() {
        let output = crash_lab(&["--fs", "ext4", "--workload", "create,replace", "--states", "8", GOOD]);
        let said = status(&output, 0);
        assert!(said.contains("No bad state was found"), "{said}");
    }

    fn a_bad_writer() {
        let dir = TempDir::new().unwrap();
        let (kept, json) = (dir.path().join("kept"), dir.path().join("report.json"));
        let [kept_arg, json_arg] = [&kept, &json].map(|path| path.to_str().unwrap());
        let output = crash_lab(&[
            "--fs",
            "ext4",
            "--workload",
            "replace",
            "--keep",
            kept_arg,
            "--json",
            json_arg,
            "--states",
            "20",
            BAD,
        ]);
        status(&output, 1);
        let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(report["good"], Value::Bool(false));
        assert_eq!(report["command"], BAD);
        assert!(report["total"]["torn"].as_u64().unwrap() > 0, "{report:#}");
        assert!(report["total"]["lost"].as_u64().unwrap() > 0, "{report:#}");
        let dirs = report["bad"].as_array().unwrap().iter().filter_map(|bad| bad["kept"].as_str());
        let mut dirs: Vec<&Path> = dirs.map(Path::new).collect();
        dirs.sort();
        assert_eq!(dirs, [kept.join("ext4-replace-lost"), kept.join("ext4-replace-torn")]);
        the_commands_show_the_fault(dirs[0], |found, [old, _]| found == old);
        the_commands_show_the_fault(dirs[1], |found, [old, new]| found != old && found != new);
        judged_again_it_is_bad(dirs[1]);
    }

    /// The commands in its README.txt, which are indented.
    fn commands(kept: &Path) -> Vec<String> {
        let text = fs::read_to_string(kept.join("README.txt")).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
    }

    /// Runs the commands that look at a kept image. Only the mount point is changed.
    fn the_commands_show_the_fault(kept: &Path, is_fault: impl Fn(&[u8], [&[u8]; 2]) -> bool) {
        let mount_point = TempDir::new().unwrap();
        let commands = commands(kept);
        let until = commands.iter().position(|command| command.starts_with("umount")).unwrap();
        let script = commands[..=until].join("\n").replace("/mnt", mount_point.path().to_str().unwrap());
        let output =
            Command::new("unshare").args(["--mount", "sh", "-ec", &script]).current_dir(kept).output().unwrap();
        assert!(output.status.success(), "{script}\n{output:?}");
        let versions = ["version-0", "version-1"].map(|name| fs::read(kept.join(name)).unwrap());
        assert_eq!(output.stdout, fs::read(kept.join("found")).unwrap());
        assert!(is_fault(&output.stdout, [&versions[0], &versions[1]]), "{}", String::from_utf8_lossy(&output.stdout));
    }

    fn judged_again_it_is_bad(kept: &Path) {
        let commands = commands(kept);
        let again = commands.last().unwrap().replacen("crash-lab", env!("CARGO_BIN_EXE_crash-lab"), 1);
        let output = Command::new("sh").args(["-c", &again]).output().unwrap();
        status(&output, 1);
    }

    fn another_value() {
        let output = crash_lab(&[
            "--fs=ext4",
            "--workload=replace",
            "--commits=always",
            "--states=20",
            "--json=-",
            "--prepare=cat > {dir}/value",
            "--read=test -s {dir}/value && cat {dir}/value",
            "cat > {dir}/value",
        ]);
        status(&output, 1);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["total"]["broken"].as_u64().unwrap() > 0, "{report:#}");
    }

    fn other_disks() {
        let on = |device| {
            let output =
                crash_lab(&["--fs=ext4", "--workload=replace", "--states=8", "--json=-", "--device", device, GOOD]);
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let failed =
                report["results"].as_array().unwrap().iter().map(|row| row["failed_requests"].as_u64().unwrap());
            (output.status.code(), failed.sum::<u64>())
        };
        assert_eq!(on("lies"), (Some(1), 0));
        // One bad state in each recording, which `sync` reports.
        assert_eq!(on("flush:1"), (Some(0), 3));
    }

    fn what_cannot_be_judged() {
        let of = |command: &str| crash_lab(&["--fs=ext4", "--workload=create", "--states=1", "--timeout=1", command]);
        for (command, why) in [
            ("cat > {path}; exit 3", "exit status: 3"),
            ("true", "it is missing"),
            ("head -c 10 > {path}", "10 bytes"),
            ("sleep 100", "did not end in time"),
        ] {
            let said = status(&of(command), 2);
            assert!(said.contains(why), "{said}");
        }
        let small = crash_lab(&["--fs=ext4", "--mkfs=mkfs.ext4 -q -b 77", GOOD]);
        assert!(status(&small, 2).contains("mkfs.ext4"));
    }

    fn wrong_usage() {
        for args in [
            &[][..],
            &["--states=0", GOOD],
            &["--fs=unheard-of", GOOD],
            &["--device=flush:0", GOOD],
            &["--read=cat", GOOD],
            &["--fs=ext4,xfs", "--size=64", GOOD],
            &["cat", ">", "{path}"],
        ] {
            let output = crash_lab(args);
            assert_eq!(output.status.code(), Some(2), "{args:?}");
            assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
        }
        assert_eq!(crash_lab(&["--help"]).status.code(), Some(0));
    }

    fn a_seed_repeats() {
        let states = |seed| {
            let writes =
                |from: u64| (from..from + 8).map(|n| Event::Write { offset: n * 4096, data: vec![n as u8 + 1; 4096] });
            let log = writes(0).chain([Event::Flush]).chain(writes(8)).chain([Event::Flush]).collect();
            let recording = Recording::new(Image::default(), log, seed);
            recording.sample(20).into_iter().map(|state| recording.describe(state).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(states(1), states(1));
        assert_ne!(states(1), states(2));
    }

    fn stopped_before_each_change() {
        let dir = TempDir::new().unwrap();
        let (file, seen) = (dir.path().join("file"), RefCell::new(Vec::new()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo text > file; rm file"]).current_dir(dir.path());
        let device = fs::metadata(dir.path()).unwrap().dev();
        let status = calls::run(command, device, || seen.borrow_mut().push(fs::read_to_string(&file).ok()));
        assert!(status.unwrap().success());
        // Before the file is made, before it is written, and before it is removed.
        let seen: Vec<Option<String>> = seen.into_inner();
        assert_eq!(seen, [None, Some(String::new()), Some("text\n".to_owned())]);
    }
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    let tests = linux::all();
    #[cfg(not(target_os = "linux"))]
    let tests = Vec::new();
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), tests).exit_code()
}
