//! What both programs of this package do with the file that they make.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// A file of the workspace.
pub fn in_workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What a program's `main` does: writes the file `path` of the workspace, or with the argument
/// `--check` compares only, and fails if the file has another text. Says on standard error why it
/// fails.
pub fn write_or_check(path: &str, text: impl FnOnce() -> Result<String>) -> ExitCode {
    match text().and_then(|text| write_or_compare(path, &text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_or_compare(path: &str, text: &str) -> Result<()> {
    let file = in_workspace(path);
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            fs::write(&file, text).with_context(|| format!("cannot write {path}"))?;
            println!("written: {path}");
        }
        ["--check"] => {
            let found = fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
            if found != text {
                bail!("{path} is out of date; `make commands` writes it");
            }
        }
        _ => bail!("the only argument is --check"),
    }
    Ok(())
}
