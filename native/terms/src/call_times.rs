//! How long our calls hold the VM's schedulers. Measured in a build with the feature `call_times` alone, which is not for production.
//!
//! What counts is the processor time of the thread: the system takes a core away now and then for longer than any call lasts. Where it runs on a virtual machine, so does
//! that one's host, and that is in the processor time. So a thread of our own that only computes, a little at a time, is measured the same way: what comes as often
//! there is not the calls'.
//!
//! The file that the environment variable `PROCTAB_CALL_TIMES` names has a line for each function, written again every second: how many calls, their processor time in microseconds,
//! how many took over a millisecond of it, the longest, and the longest on the clock, which has the waiting for locks in it. The thread's own line is called
//! `control`.

/// Runs a part of a call on a normal scheduler.
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
    /// How often the control computes, and how often the file is written.
    const PAUSE: Duration = Duration::from_millis(1);
    const WRITTEN: Duration = Duration::from_secs(1);

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

    /// Runs a part of a call on a normal scheduler, and notes how long it took.
    pub fn measure<T>(name: &'static CStr, run: impl FnOnce() -> T) -> T {
        static CONTROL: Once = Once::new();
        CONTROL.call_once(|| {
            thread::spawn(control);
        });
        note(name, run)
    }

    fn note<T>(name: &'static CStr, run: impl FnOnce() -> T) -> T {
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
            note(c"control", || {
                touch();
                (0..1_000_000).fold(0, |sum, next| black_box(sum + next))
            });
            if written.elapsed() > WRITTEN {
                written = Instant::now();
                write();
            }
            thread::sleep(PAUSE);
        }
    }

    /// Uses memory that is new to the process, once.
    fn touch() {
        const LENGTH: usize = 1 << 15;
        const PAGE: usize = 1 << 12;
        // SAFETY: the mapping is new, private and of that length, is written to within it, and nobody else knows of it when it goes.
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
            // To a string, which takes all.
            let _ = writeln!(
                lines,
                "{name} {} {processor} {} {longest} {on_clock}",
                times.calls, times.over
            );
        }
        // Without the file there are no figures, which its reader sees.
        let _ = fs::write(path, lines);
    }

    /// The processor time of this thread.
    fn processor_time() -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: it writes to the place that it is given. Of a thread's own clock it cannot fail, and if it did, zero would be read.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}
