//! What is printed and done with: completions and the manual page.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Args, Debug)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "bantam", &mut text);
        print(&text)
    }
}

/// The manual page, of which the subcommands are parts.
pub(super) fn man() -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    let mut command = super::Cli::command();
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_options_section(&mut text)?;
    writeln!(text, ".SH COMMANDS")?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        writeln!(text, ".SS bantam {}", subcommand.get_name())?;
        if let Some(about) = subcommand.get_about() {
            write_as_is(&mut text, &format!("{about}."))?;
        }
        write_options(&mut text, subcommand)?;
        if let Some(help) = subcommand.get_after_help() {
            write_as_is(&mut text, &help.to_string())?;
        }
    }
    if let Some(help) = command.get_after_help() {
        writeln!(text, ".SH EXAMPLES")?;
        write_as_is(&mut text, help.to_string().trim_start_matches("Examples:\n"))?;
    }
    print(&text)
}

/// A subcommand's own options, without a heading.
fn write_options(text: &mut Vec<u8>, subcommand: &clap::Command) -> io::Result<()> {
    let general = |name: &str| ["help", "verbose"].contains(&name);
    let own = subcommand.clone().mut_args(|option| {
        let hide = option.is_hide_set() || general(option.get_id().as_str());
        option.hide(hide)
    });
    let mut section = Vec::new();
    clap_mangen::Man::new(own).render_options_section(&mut section)?;
    let section = String::from_utf8_lossy(&section);
    let options = section.split_once(".SH OPTIONS\n").map_or("", |(_, options)| options);
    text.write_all(options.as_bytes())
}

/// Lines that stay as they are broken.
fn write_as_is(text: &mut Vec<u8>, lines: &str) -> io::Result<()> {
    writeln!(text, ".PP\n.nf")?;
    for line in lines.lines() {
        // What begins with one of these would be a request to roff.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        writeln!(text, "{guard}{line}")?;
    }
    writeln!(text, ".fi")
}

/// Writes to standard output; a reader that has gone away is no error.
pub(super) fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    match write(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes to standard output, and nothing is left for later.
pub(super) fn write(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text)?;
    stdout.flush()
}
