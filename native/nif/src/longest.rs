//! How long our calls hold the VM's schedulers. Measured in a build with the feature `longest` alone, which is not for production.
//!
//! A call that takes longer than any of its function before, and than [`SHORT`], is written to the file that the environment variable `PROCTAB_LONGEST` names, as a
//! line of three: function, microseconds of the thread's processor time, microseconds on the clock. The system takes a core away now and then for longer than any call
//! lasts, so the former says what the call does; the latter has the waiting for locks in it as well.

/// Runs a part of a call on a normal scheduler.
#[cfg(not(feature = "longest"))]
#[inline(always)]
pub fn measure<T>(_: &'static std::ffi::CStr, run: impl FnOnce() -> T) -> T {
    run()
}

#[cfg(feature = "longest")]
pub use measured::measure;

#[cfg(feature = "longest")]
mod measured {
    use std::collections::HashMap;
    use std::ffi::CStr;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::time::{Duration, Instant};

    use lazy_static::lazy_static;
    use parking_lot::Mutex;

    /// What takes less is not written.
    const SHORT: Duration = Duration::from_micros(100);

    lazy_static! {
        static ref LONGEST: Mutex<HashMap<&'static CStr, (Duration, Duration)>> = Mutex::default();
    }

    /// Runs a part of a call on a normal scheduler, and notes how long it took.
    pub fn measure<T>(name: &'static CStr, run: impl FnOnce() -> T) -> T {
        let (processor, clock) = (processor_time(), Instant::now());
        let result = run();
        let (processor, clock) = (processor_time() - processor, clock.elapsed());
        if clock > SHORT {
            note(name, processor, clock);
        }
        result
    }

    fn note(name: &'static CStr, processor: Duration, clock: Duration) {
        let mut longest = LONGEST.lock();
        let (most_processor, most_clock) = longest.entry(name).or_default();
        if processor <= *most_processor && clock <= *most_clock {
            return;
        }
        *most_processor = processor.max(*most_processor);
        *most_clock = clock.max(*most_clock);
        let Some(path) = std::env::var_os("PROCTAB_LONGEST") else {
            return;
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        // A run whose figures cannot be written has none, which its reader sees.
        let _ = file.and_then(|mut file| {
            let name = name.to_string_lossy();
            let (processor, clock) = (processor.as_micros(), clock.as_micros());
            writeln!(file, "{name} {processor} {clock}")
        });
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
