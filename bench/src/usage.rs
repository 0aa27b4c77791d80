//! CPU time and memory of a process and its descendants, read from `/proc`.
//!
//! CPU time varies far less than throughput. It is the sum of the first field of `schedstat` over
//! all threads, in nanoseconds. This sum omits threads that have ended. Therefore the process
//! times in `stat` are read as well: they include the user and system time of all threads and of
//! ended children, but have a resolution of only 10 ms. The process times are used only if they
//! exceed the sum over the threads by more than the rounding error.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::param::clock_ticks_per_second;

/// Maximum rounding error of the four times of a process, in ticks.
const ROUNDING_TICKS: u64 = 4;

/// CPU time between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    pub ns: u64,
    /// Whether threads or processes ended between the readings, so that part of the CPU
    /// time has a resolution of only 10 ms.
    pub coarse: bool,
}

/// CPU times of a process and all its descendants.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    processes: BTreeMap<u32, Process>,
}

#[derive(Clone, Debug, Default)]
struct Process {
    /// Start time in ticks since boot. A different start time means that the process ID was
    /// reused.
    start_time: u64,
    threads: BTreeMap<u32, u64>,
    ticks: u64,
    ended_children_ticks: u64,
}

impl Usage {
    /// Reads the current CPU times. Descendants that end during the reading are left out.
    ///
    /// # Errors
    /// If the process does not exist.
    pub fn read(root: u32) -> io::Result<Self> {
        let mut processes = BTreeMap::new();
        processes.insert(root, Process::read(root)?);
        for pid in descendants(root) {
            if let Ok(process) = Process::read(pid) {
                processes.insert(pid, process);
            }
        }
        Ok(Self { processes })
    }

    /// Returns the CPU time used since the reading `earlier`.
    pub fn since(&self, earlier: &Self) -> Cpu {
        let tick = 1_000_000_000 / clock_ticks_per_second().max(1);
        self.processes
            .iter()
            .map(|(pid, now)| {
                let before = earlier
                    .processes
                    .get(pid)
                    .filter(|before| before.start_time == now.start_time);
                now.since(before.unwrap_or(&Process::default()), tick)
            })
            .fold(Cpu::default(), |sum, cpu| Cpu {
                ns: sum.ns + cpu.ns,
                coarse: sum.coarse || cpu.coarse,
            })
    }
}

/// Returns the CPU time of the `most` busiest threads named `name` between two readings, in
/// nanoseconds and in descending order.
pub fn threads_between(
    process: u32,
    name: &str,
    most: usize,
    before: &Usage,
    after: &Usage,
) -> Vec<u64> {
    let empty = Process::default();
    let of = |usage: &'_ Usage, thread| {
        let process = usage.processes.get(&process).unwrap_or(&empty);
        process.threads.get(thread).copied().unwrap_or(0)
    };
    let threads = after.processes.get(&process).unwrap_or(&empty);
    let mut used: Vec<u64> = threads
        .threads
        .keys()
        .filter(|thread| {
            let path = format!("/proc/{process}/task/{thread}/comm");
            fs::read_to_string(path).is_ok_and(|comm| comm.trim_end() == name)
        })
        .map(|thread| of(after, thread).saturating_sub(of(before, thread)))
        .collect();
    used.sort_unstable_by_key(|ns| std::cmp::Reverse(*ns));
    used.truncate(most);
    used
}

impl Process {
    fn read(pid: u32) -> io::Result<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let stat = Stat::from_str(&fs::read_to_string(directory.join("stat"))?)?;
        let mut threads = BTreeMap::new();
        for thread in numbered(&directory.join("task")) {
            let path = directory.join(format!("task/{thread}/schedstat"));
            if let Some(ns) = fs::read_to_string(path).ok().and_then(|s| on_cpu(&s)) {
                threads.insert(thread, ns);
            }
        }
        Ok(Self {
            start_time: stat.start_time,
            threads,
            ticks: stat.ticks,
            ended_children_ticks: stat.ended_children_ticks,
        })
    }

    fn since(&self, before: &Self, tick: u64) -> Cpu {
        let exact: u64 = self
            .threads
            .iter()
            .map(|(thread, ns)| ns.saturating_sub(*before.threads.get(thread).unwrap_or(&0)))
            .sum();
        let ticks = self.ticks.saturating_sub(before.ticks);
        let own = if ticks.saturating_sub(ROUNDING_TICKS) * tick > exact {
            ticks * tick
        } else {
            exact
        };
        let children = self.ended_children_ticks - before.ended_children_ticks;
        Cpu {
            ns: own + children * tick,
            coarse: own != exact || children > 0,
        }
    }
}

/// Returns the process IDs of all descendants.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut look_at = vec![root];
    while let Some(pid) = look_at.pop() {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        for thread in numbered(&tasks) {
            let path = tasks.join(format!("{thread}/children"));
            let children = fs::read_to_string(path).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|n| n.parse().ok()) {
                found.push(child);
                look_at.push(child);
            }
        }
    }
    found
}

/// Proportional set size of the process and its descendants, in bytes. Memory shared by
/// several processes is divided among them.
///
/// # Errors
/// If the process does not exist.
pub fn memory(root: u32) -> io::Result<u64> {
    let read = |pid| -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        proportional(&rollup).ok_or_else(|| io::Error::other("smaps_rollup without Pss"))
    };
    let children: u64 = descendants(root)
        .into_iter()
        .filter_map(|pid| read(pid).ok())
        .sum();
    Ok(read(root)? + children)
}

/// Returns the start time of the process in ticks since boot, or `None` if the process has
/// ended.
pub fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let stat = Stat::from_str(&text).ok()?;
    (stat.state != 'Z').then_some(stat.start_time)
}

fn numbered(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Parses the first field of `schedstat`: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    ticks: u64,
    ended_children_ticks: u64,
    start_time: u64,
}

impl FromStr for Stat {
    type Err = io::Error;

    /// The second field, the name, may contain blanks and parentheses, so parsing starts
    /// after the last parenthesis. See proc_pid_stat(5).
    fn from_str(text: &str) -> io::Result<Self> {
        let parse = || {
            let (_, rest) = text.rsplit_once(')')?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // `fields` starts with field 3.
            let number = |field: usize| -> Option<u64> { fields.get(field - 3)?.parse().ok() };
            Some(Self {
                state: fields.first()?.chars().next()?,
                ticks: number(14)? + number(15)?,
                ended_children_ticks: number(16)? + number(17)?,
                start_time: number(22)?,
            })
        };
        parse().ok_or_else(|| io::Error::other("/proc/PID/stat cannot be parsed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4321 (a ) b) S 1 4321 4321 0 -1 4194560 161 30 0 0 70 30 5 2 20 0 3 0 \
        987654 11227136 867 18446744073709551615 1 1 0 0 0 0 0 16781312 134235649 0 0 0 17 1 0 0";

    #[test]
    fn parentheses_in_a_name_are_skipped() {
        let stat = Stat {
            state: 'S',
            ticks: 100,
            ended_children_ticks: 7,
            start_time: 987_654,
        };
        assert_eq!(STAT.parse::<Stat>().unwrap(), stat);
        assert!("".parse::<Stat>().is_err());
        assert!("1 (x) R 1".parse::<Stat>().is_err());
    }

    #[test]
    fn status_fields_are_found() {
        assert_eq!(on_cpu("123456789 2233 44\n"), Some(123_456_789));
        assert_eq!(on_cpu(""), None);
        let rollup =
            "00400000-7ffe [rollup]\nRss:  99 kB\nPss:                1234 kB\nPss_Anon: 5 kB\n";
        assert_eq!(proportional(rollup), Some(1234 * 1024));
        assert_eq!(proportional("Rss: 1 kB\n"), None);
    }

    fn process(threads: &[(u32, u64)], ticks: u64, children: u64) -> Process {
        Process {
            start_time: 1,
            threads: threads.iter().copied().collect(),
            ticks,
            ended_children_ticks: children,
        }
    }

    #[test]
    fn live_and_ended_threads_are_counted() {
        const TICK: u64 = 10_000_000;
        let before = process(&[(1, 5), (2, 50 * TICK)], 50, 0);
        let exact = |ns| Cpu { ns, coarse: false };
        let coarse = |ns| Cpu { ns, coarse: true };

        let later = process(&[(1, 25), (2, 53 * TICK), (3, 7)], 53, 0);
        assert_eq!(later.since(&before, TICK), exact(20 + 3 * TICK + 7));
        // Thread 2 has used 20 more ticks and has ended.
        let later = process(&[(1, 25)], 70, 0);
        assert_eq!(later.since(&before, TICK), coarse(20 * TICK));
        // A difference within the rounding error does not mean that a thread has ended.
        let later = process(&[(1, 25), (2, 50 * TICK)], 50 + ROUNDING_TICKS, 0);
        assert_eq!(later.since(&before, TICK), exact(20));
        let later = process(&[(1, 25), (2, 50 * TICK)], 50, 6);
        assert_eq!(later.since(&before, TICK), coarse(20 + 6 * TICK));
    }

    #[test]
    fn reused_pid_is_another_process() {
        let of = |process: Process| Usage {
            processes: [(9, process)].into(),
        };
        let mut other = process(&[(9, 300)], 0, 0);
        other.start_time = 2;
        let cpu = of(other).since(&of(process(&[(9, 200)], 0, 0)));
        assert_eq!(cpu.ns, 300);
    }

    #[test]
    fn threads_are_grouped_by_name() {
        let own = std::process::id();
        let burnt = std::sync::Barrier::new(3);
        let read = std::sync::Barrier::new(3);
        let burn = &|ns: u64| {
            let used = || on_cpu(&fs::read_to_string("/proc/thread-self/schedstat").unwrap());
            while used() < Some(ns) {}
            burnt.wait();
            read.wait();
        };
        let used = std::thread::scope(|scope| {
            for ns in [2_000_000, 8_000_000] {
                let thread = std::thread::Builder::new().name("counted".to_owned());
                thread.spawn_scoped(scope, move || burn(ns)).unwrap();
            }
            burnt.wait();
            let after = Usage::read(own).unwrap();
            let used = |most| threads_between(own, "counted", most, &Usage::default(), &after);
            let all = used(5);
            assert_eq!(used(1), all[..1]);
            read.wait();
            all
        });
        assert_eq!(used.len(), 2);
        assert!(used[0] >= 8_000_000 && used[1] >= 2_000_000);
    }

    #[test]
    fn own_process_tree_is_read() {
        let own = std::process::id();
        let before = Usage::read(own).unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(descendants(own).contains(&child.id()));
        assert!(start_time(child.id()).is_some());
        // End the child before the first comparison: after its end, only whole ticks of its CPU
        // time are known.
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(start_time(child.id()).is_none());
        let mut burnt = 0u64;
        let busy = Usage::read(own).unwrap();
        while Usage::read(own).unwrap().since(&busy).ns < 5_000_000 {
            burnt = std::hint::black_box(burnt.wrapping_add(1));
        }
        assert!(Usage::read(own).unwrap().since(&before).ns >= 5_000_000);
        assert!(memory(own).unwrap() > 100_000);
    }
}
