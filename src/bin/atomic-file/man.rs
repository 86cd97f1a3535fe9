//! The manual page, made from the text of the help.

use std::io;

use clap::builder::PossibleValue;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::SECTIONS;

/// The date of the page's last change, for its header.
const DATE: &str = "2026-11-28";

pub fn page(mut command: Command) -> io::Result<Vec<u8>> {
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).title("ATOMIC-FILE").date(DATE).manual("User Commands");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // From here on without clap_mangen: its pages leave out the arguments of verbs, and would refer to a page for each
    // verb.
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman(usage(&mut command))]);
    roff.control("SH", ["DESCRIPTION"]);
    about(&command, &mut roff);
    roff.control("SH", ["OPTIONS"]);
    for option in command.get_arguments() {
        describe(option, &mut roff);
    }
    roff.control("SH", ["COMMANDS"]);
    for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
        roff.control("SS", [usage(verb).as_str()]);
        about(verb, &mut roff);
        for arg in verb.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help") {
            describe(arg, &mut roff);
        }
    }
    for section in &SECTIONS {
        roff.control("SH", [section.title.to_uppercase().as_str()]);
        for (term, what) in section.entries {
            entry(&mut roff, term, what);
        }
        if !section.note.is_empty() {
            roff.control("PP", []);
            roff.text([roman(section.note)]);
        }
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}

fn usage(command: &mut Command) -> String {
    let usage = command.render_usage().to_string();
    usage.trim_start_matches("Usage: ").to_owned()
}

fn about(command: &Command, roff: &mut Roff) {
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        paragraphs(&about.to_string(), "PP", roff);
    }
}

fn describe(arg: &Arg, roff: &mut Roff) {
    let term = arg.get_short().map_or(arg.to_string(), |short| format!("-{short}, {arg}"));
    let mut help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (explained, bare): (Vec<_>, Vec<_>) =
        arg.get_possible_values().into_iter().partition(|value| value.get_help().is_some());
    if !bare.is_empty() {
        help += &format!(": {}", bare.iter().map(PossibleValue::get_name).collect::<Vec<_>>().join(", "));
    }
    // A flag has a default value, too, which means nothing.
    for default in arg.get_default_values().iter().filter(|_| arg.get_action().takes_values()) {
        help += &format!(" [default: {}]", default.to_string_lossy());
    }
    entry(roff, &term, &help);
    for value in explained {
        roff.control("RS", []);
        entry(roff, value.get_name(), &value.get_help().map(ToString::to_string).unwrap_or_default());
        roff.control("RE", []);
    }
}

fn entry(roff: &mut Roff, term: &str, what: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    paragraphs(what, "IP", roff);
}

/// Paragraphs with a macro between them.
fn paragraphs(text: &str, between: &str, roff: &mut Roff) {
    for (n, paragraph) in text.split("\n\n").enumerate() {
        if n > 0 {
            roff.control(between, []);
        }
        roff.text([roman(paragraph)]);
    }
}
