//! Parts that some tests need and not every machine has.

use std::io::{self, Write};
use std::{env, thread};

use anyhow::Result;

/// The part, or `None` after a line `SKIPPED` that names the test and why it ends here.
///
/// # Panics
/// In CI (`CI=true`), where every part must be there.
pub fn or_skip<T>(part: Result<T>) -> Option<T> {
    match part {
        Ok(part) => Some(part),
        Err(error) if env::var_os("CI").is_some_and(|ci| ci == "true") => {
            panic!("in CI this must be there: {error:#}")
        }
        Err(error) => {
            let test = thread::current().name().unwrap_or_default().to_owned();
            let skipped = format!("\n\nSKIPPED: {test}: {error:#}\n\n");
            // Not by `eprintln!`, which the test harness hides; and there is nobody to tell of an
            // error.
            let _ = io::stderr().write_all(skipped.as_bytes());
            None
        }
    }
}
