//! Measures how long calls hold the VM's schedulers.
//!
//! Only a build with the feature `call_times` measures; it is for tests, not for production.
//!
//! The figure that counts is the processor time of the thread, because the system preempts a
//! thread for longer than any call takes. On a virtual machine the host does the same, and that is
//! part of the processor time. So a *control* thread that only computes, a little at a time, is
//! measured as well: spikes that it also shows are not caused by the calls.
//!
//! The environment variable `PROCTAB_CALL_TIMES` names a file, which is rewritten every second.
//! Each line is about one function: its name, the number of calls, their processor time in
//! microseconds, how many took more than a millisecond, the longest, and the longest on the clock,
//! which includes waiting for locks. The line of the control thread is called `control`.

/// Runs `run`, which holds a normal scheduler.
#[cfg(not(feature = "call_times"))]
#[inline(always)]
pub fn measure<T>(_: &'static std::ffi::CStr, run: impl FnOnce() -> T) -> T {
    run()
}

#[cfg(feature = "call_times")]
pub use measured::measure;

#[cfg(feature = "call_times")]
mod measured {
    use std::collections::HashMap;
    use std::ffi::CStr;
    use std::fmt::Write;
    use std::hint::black_box;
    use std::sync::Once;
    use std::time::{Duration, Instant};
    use std::{env, fs, thread};

    use lazy_static::lazy_static;
    use parking_lot::Mutex;

    const LIMIT: Duration = Duration::from_millis(1);
    /// How long a computation of the control thread takes.
    const COMPUTATION: Duration = Duration::from_micros(200);
    /// Pause between two computations of the control thread, and between two writes of the file.
    const PAUSE: Duration = Duration::from_millis(1);
    const INTERVAL: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Times {
        calls: u64,
        processor: Duration,
        over: u64,
        longest: Duration,
        longest_on_clock: Duration,
    }

    lazy_static! {
        static ref FUNCTIONS: Mutex<HashMap<&'static CStr, Times>> = Mutex::default();
    }

    /// Runs `run`, which holds a normal scheduler, and records how long it took.
    pub fn measure<T>(name: &'static CStr, run: impl FnOnce() -> T) -> T {
        static CONTROL: Once = Once::new();
        CONTROL.call_once(|| {
            thread::spawn(control);
        });
        record(name, run)
    }

    fn record<T>(name: &'static CStr, run: impl FnOnce() -> T) -> T {
        let (processor, clock) = (processor_time(), Instant::now());
        let result = run();
        let (processor, clock) = (processor_time().saturating_sub(processor), clock.elapsed());
        let mut functions = FUNCTIONS.lock();
        let times = functions.entry(name).or_default();
        times.calls += 1;
        times.processor += processor;
        times.over += u64::from(processor > LIMIT);
        times.longest = times.longest.max(processor);
        times.longest_on_clock = times.longest_on_clock.max(clock);
        result
    }

    fn control() {
        let mut written = Instant::now();
        loop {
            record(c"control", || {
                touch();
                let begin = processor_time();
                while processor_time().saturating_sub(begin) < COMPUTATION {
                    (0..1_000).fold(0, |sum, next| black_box(sum + next));
                }
            });
            if written.elapsed() > INTERVAL {
                written = Instant::now();
                write();
            }
            thread::sleep(PAUSE);
        }
    }

    /// Maps new memory and writes to each of its pages, as calls that allocate do.
    fn touch() {
        const LENGTH: usize = 1 << 15;
        const PAGE: usize = 1 << 12;
        // SAFETY: the mapping is new and private, the writes are within its length, and nobody
        // else has its address when it is unmapped.
        unsafe {
            let memory = libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if memory != libc::MAP_FAILED {
                for offset in (0..LENGTH).step_by(PAGE) {
                    memory.cast::<u8>().add(offset).write_volatile(1);
                }
                libc::munmap(memory, LENGTH);
            }
        }
    }

    fn write() {
        let Some(path) = env::var_os("PROCTAB_CALL_TIMES") else {
            return;
        };
        let mut lines = String::new();
        for (name, times) in FUNCTIONS.lock().iter() {
            let name = name.to_string_lossy();
            let [processor, longest, on_clock] =
                [times.processor, times.longest, times.longest_on_clock]
                    .map(|time| time.as_micros());
            // Writing to a string cannot fail.
            let _ = writeln!(
                lines,
                "{name} {} {processor} {} {longest} {on_clock}",
                times.calls, times.over
            );
        }
        // If this fails, the reader finds no file.
        let _ = fs::write(path, lines);
    }

    /// Returns the processor time of this thread.
    fn processor_time() -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: it writes to `time`, which is zero if it fails.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}
