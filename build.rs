//! Builds the embedded guest (`resources/guest`) with the compiler that builds
//! the package, and leaves it as `guest.elf` in `OUT_DIR`.
//!
//! The guest is freestanding code for the host's own target, so it needs no
//! further target, crate or network. Flags that a user, Clippy or a coverage
//! tool sets for the package are for the package: the guest has its own.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Variables that would change what the plain compiler does.
const FOREIGN_VARIABLES: [&str; 5] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "LLVM_PROFILE_FILE"];

const CODEGEN_FLAGS: [&str; 11] = [
    "panic=abort",
    "opt-level=z",
    "lto=fat",
    "codegen-units=1",
    "debuginfo=0",
    "debug-assertions=off",
    "overflow-checks=off",
    "force-unwind-tables=no",
    "relocation-model=static",
    "relro-level=off",
    "strip=symbols",
];

/// The script's name is relative: the compiler runs in the guest's folder.
const LINKER_FLAGS: [&str; 6] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-T,link.ld",
];

fn main() -> ExitCode {
    match build_guest() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: the embedded guest (resources/guest) was not built\n{message}");
            ExitCode::FAILURE
        }
    }
}

fn build_guest() -> Result<(), String> {
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("resources").join("guest");
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=resources/guest");

    let target = guest_target()?;
    let output = out_dir.join("guest.elf");
    let mut command = Command::new(variable("RUSTC")?);
    command.current_dir(&source).args(["--edition", "2024", "--crate-type", "bin"]).args([
        "--crate-name",
        "bantam_guest",
        "--target",
        &target,
    ]);
    for flag in CODEGEN_FLAGS {
        command.args(["-C", flag]);
    }
    if target == variable("TARGET")?
        && let Ok(linker) = env::var("RUSTC_LINKER")
    {
        command.arg("-C").arg(format!("linker={linker}"));
    }
    if target.contains("musl") {
        // The start files that the target brings along are not for us.
        command.args(["-C", "link-self-contained=no"]);
    }
    for flag in LINKER_FLAGS {
        command.arg("-C").arg(format!("link-arg={flag}"));
    }
    command.arg("-o").arg(&output).arg("main.rs");
    for name in FOREIGN_VARIABLES {
        command.env_remove(name);
    }
    // Under Miri, RUSTC is Miri's driver: this makes it a plain compiler.
    command.env("MIRI_BE_RUSTC", "host");

    let result = command
        .output()
        .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    let diagnostics = String::from_utf8_lossy(&result.stderr);
    if result.status.success() {
        for line in diagnostics.lines().filter(|line| !line.is_empty()) {
            println!("cargo::warning=guest: {line}");
        }
        Ok(())
    } else {
        Err(format!(
            "{diagnostics}\nthe command was: {command:?}\n\
             It needs a linker that takes a GNU linker script (GNU ld or LLD, through `cc`)."
        ))
    }
}

/// The host's target if it fits, since its `core` is there whenever a build
/// script can be compiled; else the package's.
fn guest_target() -> Result<String, String> {
    let fits = |target: &String| target.starts_with("x86_64-") && target.contains("-linux-");
    let (host, target) = (variable("HOST")?, variable("TARGET")?);
    [host, target]
        .into_iter()
        .find(fits)
        .ok_or_else(|| "neither the host nor the target is x86-64 Linux".to_owned())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
