//! What ginnel-process costs, beside the standard library, tokio and posix_spawn, in one run, turn by turn.

mod sys;

use crate::test::cargo;
use ginnel_process::{Command, Isolation, KillLadder, Stdio};
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};
use std::{fs, hint};

#[derive(clap::Args)]
pub(crate) struct Process {
    /// A short run, to see that it works; writes nothing.
    #[arg(long)]
    quick: bool,
    /// Measure in this build (the task itself is built without optimisation and starts another that is).
    #[arg(long, hide = true)]
    here: bool,
}

const REPORT: &str = "docs/benchmarks/process.md";
const PROGRAM: &str = "/bin/true";

impl Process {
    pub(crate) fn run(self) -> Result<(), String> {
        if !self.here {
            let mut args =
                vec!["run", "--quiet", "--release", "--package", "xtask", "--", "bench", "process", "--here"];
            args.extend(self.quick.then_some("--quick"));
            return cargo(&args, &[]);
        }
        let rounds = if self.quick { 50 } else { 1000 };
        let mut text = String::new();
        head(&mut text);
        let mut measure = |title: &str| -> Result<(), String> {
            eprintln!("spawn and wait, {title}");
            let _ = writeln!(text, "\n### {title}\n");
            spawns(&mut text, rounds)
        };
        measure("small parent")?;
        let large = four_gib();
        measure("parent with 4 GiB of touched memory")?;
        drop(hint::black_box(large));
        eprintln!("memory of a shepherd");
        memory(&mut text)?;
        eprintln!("throughput of a pipe");
        throughput(&mut text, 256 << 20, if self.quick { 6 } else { 40 })?;
        eprintln!("killing trees");
        kills(&mut text, if self.quick { 2 } else { 10 })?;
        let _ = writeln!(text, "\nLoad of the machine when the run ended: {}.", load());
        println!("{text}");
        if !self.quick {
            fs::create_dir_all("docs/benchmarks")
                .and_then(|()| fs::write(REPORT, text))
                .map_err(|error| format!("{REPORT}: {error}"))?;
            eprintln!("written to {REPORT}");
        }
        Ok(())
    }
}

fn load() -> String {
    let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    average.split(' ').take(3).collect::<Vec<_>>().join(", ")
}

/// The part of the last second in which the CPUs were busy.
fn busy() -> f64 {
    let ticks = || -> (u64, u64) {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let words: Vec<u64> =
            stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        (words.iter().take(8).sum(), words.get(3).copied().unwrap_or(0) + words.get(4).copied().unwrap_or(0))
    };
    let (all, idle) = ticks();
    std::thread::sleep(Duration::from_secs(1));
    let (all_after, idle_after) = ticks();
    1.0 - (idle_after - idle) as f64 / (all_after - all).max(1) as f64
}

fn head(text: &mut String) {
    let mut quiet = busy();
    // A machine that is busy with something else is given half a minute to calm down, and then measured as it is.
    for _ in 0..30 {
        if quiet < 0.03 {
            break;
        }
        quiet = busy();
    }
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let _ = write!(
        text,
        "# Processes: what a shepherd costs\n\n\
         Written by `cargo xtask bench process`; every figure is from one run of that command.\n\n\
         Machine: {cpus} CPUs ({cpu}), Linux {}. Busy before the run: {:.0} percent; load average {}.{}\n\n\
         ## Spawn and wait of `true`\n\n\
         Turn by turn, so that every contender meets the same machine. Microseconds; the ratio is of the medians, to std.\n",
        kernel.trim(),
        quiet * 100.0,
        load(),
        if quiet < 0.03 { "" } else { " **Not a quiet machine: read the ratios, not the microseconds.**" },
    );
}

/// Microseconds at a part of the sorted samples.
fn quantile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * part) as usize]
}

fn ours(isolation: Isolation) -> Result<(), String> {
    let mut child = Command::new(PROGRAM).isolation(isolation).spawn().map_err(|error| error.to_string())?;
    child.wait().map(drop).map_err(|error| error.to_string())
}

type Contender<'a> = (&'a str, Box<dyn FnMut() -> Result<(), String> + 'a>);

fn spawns(text: &mut String, rounds: usize) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| error.to_string();
    let mut contenders: Vec<Contender<'_>> = vec![
        ("std::process", Box::new(|| std::process::Command::new(PROGRAM).status().map(drop).map_err(failed))),
        (
            "tokio::process",
            Box::new(|| {
                runtime
                    .block_on(async { tokio::process::Command::new(PROGRAM).status().await })
                    .map(drop)
                    .map_err(failed)
            }),
        ),
        ("posix_spawn", Box::new(|| sys::posix_spawn(c"/bin/true").map_err(failed))),
        ("Ginnel, subreaper", Box::new(|| ours(Isolation::Subreaper))),
        ("Ginnel, auto (control group)", Box::new(|| ours(Isolation::Auto))),
        ("Ginnel, pid namespace", Box::new(|| ours(Isolation::PidNamespace))),
    ];
    let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds + 20 {
        for (index, (_, contender)) in contenders.iter_mut().enumerate() {
            let begun = Instant::now();
            contender()?;
            if round >= 20 {
                samples[index].push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let std = quantile(&mut samples[0], 0.5);
    text.push_str("| | p50 | p99 | of std |\n|---|---:|---:|---:|\n");
    for ((name, _), samples) in contenders.iter().zip(&mut samples) {
        let (p50, p99) = (quantile(samples, 0.5), quantile(samples, 0.99));
        let _ = writeln!(text, "| {name} | {p50:.0} | {p99:.0} | {:.2} |", p50 / std);
    }
    Ok(())
}

fn four_gib() -> Vec<u8> {
    let mut memory = vec![0u8; 4 << 30];
    for page in memory.iter_mut().step_by(4096) {
        *page = 1;
    }
    hint::black_box(memory)
}

fn memory(text: &mut String) -> Result<(), String> {
    let mut child = Command::new("sleep").arg("1000").spawn().map_err(|error| error.to_string())?;
    // It gives the environment back a moment after the start.
    std::thread::sleep(Duration::from_millis(100));
    let rollup =
        fs::read_to_string(format!("/proc/{}/smaps_rollup", child.shepherd_id())).map_err(|error| error.to_string())?;
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    let _ = writeln!(
        text,
        "\n## Memory of a shepherd\n\n| | KiB |\n|---|---:|\n| resident | {} |\n| private | {} |",
        kib("Rss:"),
        kib("Private_Clean:") + kib("Private_Dirty:")
    );
    child.kill().map(drop).map_err(|error| error.to_string())
}

/// Reads a stream to its end in blocks of a pipe's size; GB/s.
fn drain(mut stream: impl Read, bytes: u64) -> Result<f64, String> {
    let mut buf = vec![0; 64 * 1024];
    let (begun, mut seen) = (Instant::now(), 0);
    loop {
        match stream.read(&mut buf).map_err(|error| error.to_string())? {
            0 => break,
            len => seen += len as u64,
        }
    }
    if seen == bytes {
        Ok(bytes as f64 / begun.elapsed().as_secs_f64() / 1e9)
    } else {
        Err(format!("{seen} of {bytes} bytes came"))
    }
}

/// Both sides of every pipe are pinned, to the same two cores for both contenders, and turns are short and many: what the machine does
/// meanwhile concerns pairs, so the ratio is taken of each pair.
fn throughput(text: &mut String, bytes: u64, pairs: usize) -> Result<(), String> {
    let count = bytes.to_string();
    let args = ["-c", "0", "head", "-c", count.as_str(), "/dev/zero"];
    let pinned = sys::Pinned::to(1).map_err(|error| format!("cannot pin to core 1: {error}"))?;
    let bare = || -> Result<f64, String> {
        let mut child = std::process::Command::new("taskset")
            .args(args)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let rate = drain(child.stdout.take().ok_or("no stdout")?, bytes)?;
        child.wait().map_err(|error| error.to_string())?;
        Ok(rate)
    };
    let ours = || -> Result<f64, String> {
        let mut child =
            Command::new("taskset").args(args).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let rate = drain(child.stdout.take().ok_or("no stdout")?, bytes)?;
        child.wait().map_err(|error| error.to_string())?;
        Ok(rate)
    };
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for pair in 0..pairs {
        // Who goes first takes turns as well.
        let (first, second) = if pair % 2 == 0 { (bare()?, ours()?) } else { (ours()?, bare()?) };
        let (bare, ours) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        rates[0].push(bare);
        rates[1].push(ours);
        ratios.push(ours / bare * 100.0);
    }
    drop(pinned);
    let [bare, ours] = rates.map(|mut rates| {
        let [low, half, high] = [0.25, 0.5, 0.75].map(|part| quantile(&mut rates, part));
        format!("{half:.2} | {low:.2}-{high:.2}")
    });
    let [low, half, high] = [0.25, 0.5, 0.75].map(|part| quantile(&mut ratios, part));
    let _ = writeln!(
        text,
        "\n## Throughput of a pipe\n\n{pairs} pairs of {} MiB from `head -c` on one core, read in blocks of 64 KiB on the other; GB/s.\n\n\
         | | median | middle half |\n|---|---:|---:|\n| bare pipe (std::process) | {bare} |\n| Ginnel | {ours} |\n\n\
         Of each pair, Ginnel has {half:.1} percent of the bare pipe in the median, {low:.1} to {high:.1} in the middle half.",
        bytes >> 20,
    );
    Ok(())
}

/// Starts a shell with `count - 1` sleeping children; says when they are all there.
fn tree(count: u32) -> String {
    format!("i=1; while [ $i -lt {count} ]; do sleep 1000 & i=$((i+1)); done; echo ready; sleep 1001; true")
}

fn kills(text: &mut String, rounds: usize) -> Result<(), String> {
    text.push_str("\n## Killing a tree\n\nA shell and its children, all asleep. From the call of `kill` until the report is there and every process is gone; milliseconds. The floor is one \
         `kill` of a process group, and `waitpid` until nobody is left.\n\n");
    text.push_str("| processes | protection | p50 | worst |\n|---:|---|---:|---:|\n");
    for count in [1, 100, 1000] {
        let mut samples = Vec::new();
        for _ in 0..rounds {
            samples.push(
                sys::kill_group(&tree(count)).map_err(|error| format!("kill of a process group: {error}"))? * 1e3,
            );
        }
        let (p50, worst) = (quantile(&mut samples, 0.5), quantile(&mut samples, 1.0));
        let _ = writeln!(text, "| {count} | none: `kill` of the group | {p50:.1} | {worst:.1} |");
        for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
            let mut samples = Vec::new();
            let mut protection = String::new();
            for _ in 0..rounds {
                let mut command = Command::new("sh");
                command
                    .args(["-c", &tree(count)])
                    .isolation(isolation)
                    .kill_ladder(KillLadder::at_once())
                    .stdout(Stdio::piped());
                let mut child = command.spawn().map_err(|error| error.to_string())?;
                let mut line = String::new();
                let stdout = child.stdout.take().ok_or("no stdout")?;
                BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
                protection = child.guarantee().protection.to_string();
                let begun = Instant::now();
                let report = child.kill().map_err(|error| error.to_string())?;
                samples.push(begun.elapsed().as_secs_f64() * 1e3);
                if report.survivors > 0 || report.killed < count {
                    return Err(format!("{} killed, {} survived of {count}", report.killed, report.survivors));
                }
            }
            let (p50, worst) = (quantile(&mut samples, 0.5), quantile(&mut samples, 1.0));
            let _ = writeln!(text, "| {count} | {protection} | {p50:.1} | {worst:.1} |");
        }
    }
    Ok(())
}
