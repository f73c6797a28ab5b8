//! Checks: what is said to be true, and how that is found out.

use std::time::Instant;

use anyhow::Result;

use crate::stage::Stage;

/// Something that is true in the mesh.
pub(crate) struct Check {
    /// It as a sentence.
    pub(crate) name: &'static str,
    /// Finds out, puts everything back, and says what was seen.
    pub(crate) run: fn(&Stage) -> Result<String>,
}

impl Check {
    pub(crate) const fn new(name: &'static str, run: fn(&Stage) -> Result<String>) -> Self {
        Self { name, run }
    }

    /// Runs it and prints what came of it; whether it is true.
    pub(crate) fn holds(&self, stage: &Stage) -> bool {
        println!("== {}", self.name);
        let began = Instant::now();
        let result = (self.run)(stage);
        let seconds = began.elapsed().as_secs();
        match &result {
            Ok(seen) => println!("   ok in {seconds} s: {seen}"),
            Err(error) => println!("   FAILED after {seconds} s: {error:#}"),
        }
        result.is_ok()
    }
}
