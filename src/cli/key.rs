//! `labwire key`.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{ExitCode, complain, print_line};
use crate::hosted;

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Print the argon2 hash of a password, for `password` of an `sftp_server`; the password is read from standard input
    Hash,
}

impl Key {
    pub(super) fn run(self) -> ExitCode {
        let Key::Hash = self;
        let hashed = password().map_err(|error| error.to_string()).and_then(|password| hosted::hash(&password));
        match hashed {
            Ok(hash) => {
                print_line(&hash);
                ExitCode::Done
            }
            Err(problem) => {
                complain(problem);
                ExitCode::Usage
            }
        }
    }
}

/// The first line of standard input. At a terminal it is asked for twice, and not shown.
fn password() -> io::Result<String> {
    if !io::stdin().is_terminal() {
        let mut text = String::new();
        io::stdin().take(64 << 10).read_to_string(&mut text)?;
        return Ok(text.lines().next().unwrap_or_default().to_owned());
    }
    let (first, second) = (asked("Password: ")?, asked("Again: ")?);
    if first == second { Ok(first) } else { Err(io::Error::other("the two are not the same")) }
}

fn asked(what: &str) -> io::Result<String> {
    let (input, mut out) = (io::stdin(), io::stderr().lock());
    write!(out, "{what}").and_then(|()| out.flush())?;
    let before = tcgetattr(&input)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&input, OptionalActions::Now, &quiet)?;
    let mut line = String::new();
    let read = input.read_line(&mut line);
    tcsetattr(&input, OptionalActions::Now, &before)?;
    writeln!(out)?;
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
