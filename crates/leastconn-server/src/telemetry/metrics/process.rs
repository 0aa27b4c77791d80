//! The standard `process_*` metrics: CPU time, memory, open files.
//!
//! They are read from `/proc` through files that stay open, because they matter most when the
//! process has run out of descriptors or the sandbox forbids opening files. Unavailable values are
//! omitted.

use std::{
    fmt,
    fs::File,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    fs::{Mode, OFlags, RawDir, SeekFrom, fstat, open, seek},
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

#[derive(Debug)]
pub(super) struct Process {
    started: Timestamp,
    memory: Option<File>,
    /// `/proc/self/fd`. The lock protects its read position.
    files: Mutex<Option<OwnedFd>>,
}

impl Process {
    /// Call this at process start, because the current time becomes the start time.
    pub(super) fn new() -> Self {
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            started: Timestamp::now(),
            memory: File::open("/proc/self/statm").ok(),
            files: Mutex::new(open("/proc/self/fd", directory, Mode::empty()).ok()),
        }
    }

    /// Virtual and resident size, in bytes.
    fn memory(&self) -> Option<[u64; 2]> {
        let mut text = [0; 128];
        let read = self.memory.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(text.get(..read)?).ok()?;
        let mut pages = text.split(' ').map(|pages| pages.parse::<u64>().ok());
        let mut bytes = || Some(pages.next()?? * page_size() as u64);
        Some([bytes()?, bytes()?])
    }

    fn open_files(&self) -> Option<u64> {
        let directory = self.files.lock();
        let directory = directory.as_ref()?;
        // Since Linux 6.2 the directory's size is the number of descriptors.
        let size = fstat(directory).ok()?.st_size;
        if let Ok(files @ 1..) = u64::try_from(size) {
            return Some(files);
        }
        entries(directory)
    }
}

/// Counts the entries of a directory from its start.
fn entries(directory: &OwnedFd) -> Option<u64> {
    seek(directory, SeekFrom::Start(0)).ok()?;
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut space);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        count += u64::from(!matches!(name, b"." | b".."));
    }
    Some(count)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        ConstCounter::new(seconds).encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of the process, in seconds",
            None,
            MetricType::Counter,
        )?)?;
        let mut gauge = |name, help, value: Option<f64>| {
            let Some(value) = value else {
                return Ok(());
            };
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(descriptor)
        };
        let memory = self.memory();
        let [virtual_memory, resident] =
            [0, 1].map(|which| memory.map(|memory| memory[which] as f64));
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size, in bytes",
            virtual_memory,
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size, in bytes",
            resident,
        )?;
        gauge(
            "process_open_fds",
            "Open file descriptors",
            self.open_files().map(|files| files as f64),
        )?;
        let limit = getrlimit(Resource::Nofile).current;
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors",
            limit.map(|limit| limit as f64),
        )?;
        gauge(
            "process_start_time_seconds",
            "Start time of the process, in UNIX seconds",
            Some(self.started.as_millisecond() as f64 / 1e3),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_values_are_plausible() {
        let process = Process::new();
        let [virtual_memory, resident] = process.memory().unwrap();
        assert!(resident > 100_000 && resident < virtual_memory);
        // Other tests of this process open and close files at the same time.
        assert!(process.open_files().unwrap() >= 3);
    }

    /// Tests the fallback for kernels before 6.2.
    #[test]
    fn directory_can_be_counted_repeatedly() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..200 {
            // Long names, so that more than one read is needed.
            File::create(dir.path().join(format!("{n:0>100}"))).unwrap();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(dir.path(), flags, Mode::empty()).unwrap();
        assert_eq!(entries(&opened), Some(200));
        assert_eq!(entries(&opened), Some(200));
        File::create(dir.path().join("another")).unwrap();
        assert_eq!(entries(&opened), Some(201));
    }
}
