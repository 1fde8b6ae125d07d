//! The channels of the benchmark, as an analyst would write them.

use std::net::SocketAddr;

use super::engine::ChannelFile;

fn source(name: &str) -> String {
    // As many connections as the load generator can open.
    format!("name = \"{name}\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\nmax_connections = 1024\n")
}

/// Takes everything in and sends nothing: what is left is the receiving.
pub(super) fn filtering(name: &str) -> ChannelFile {
    let rest = "[[transformer]]\nfilter = \"msg['MSH-9.1'] == 'ADT'\"\n\
        [destination.none]\ntype = \"file\"\ndirectory = \"../none\"\nfile_name = \"{{ meta.id }}.hl7\"\n";
    (name.to_owned(), source(name) + rest)
}

/// Ten steps: a filter, names in capitals, other senders and receivers, codes of every OBX moved and looked at.
const TEN_STEPS: &str = r#"
[[transformer]]
filter = "msg['MSH-9.1'] == 'ORU'"
[[transformer]]
set = { "PID-5.1" = "{{ msg['PID-5.1'] | upper }}" }
[[transformer]]
set = { "PID-5.2" = "{{ msg['PID-5.2'] | upper }}" }
[[transformer]]
set = { "MSH-4" = "LABWIRE" }
[[transformer]]
set = { "MSH-5" = "EHR", "MSH-6" = "CLINIC" }
[[transformer]]
copy = { "PID-2" = "PID-3.1" }
[[transformer]]
each = "OBX"
when = "msg['OBX-3.3'] == 'L'"
set = { "OBX-3.4" = "{{ msg['OBX-3.1'] }}", "OBX-3.5" = "{{ msg['OBX-3.2'] }}", "OBX-3.6" = "L" }
[[transformer]]
each = "OBX"
set = { "OBX-6" = "{{ msg['OBX-6'] | lower }}" }
[[transformer]]
when = "msg['PV1-2'] == 'O'"
set = { "PV1-18" = "OUT" }
[[transformer]]
delete = ["PID-13", "NTE"]
"#;

/// The whole way to MLLP receivers.
pub(super) fn whole(name: &str, receivers: &[SocketAddr]) -> ChannelFile {
    let mut text = source(name) + TEN_STEPS;
    for (number, address) in (1..).zip(receivers) {
        text += &format!("[destination.peer{number}]\ntype = \"mllp\"\naddress = \"{address}\"\n");
    }
    (name.to_owned(), text)
}

/// The folder of [`whole_file`], below the engine's.
pub(super) const FILES: &str = "arrived";

/// The whole way to files, one for each message, named after its control id.
pub(super) fn whole_file(name: &str) -> ChannelFile {
    let rest = format!("[destination.files]\ntype = \"file\"\ndirectory = \"../{FILES}\"\n");
    (name.to_owned(), source(name) + TEN_STEPS + &rest + "file_name = \"{{ msg['MSH-10'] }}.hl7\"\n")
}

/// Everything queues up before a destination that is not there.
pub(super) fn dead(name: &str, nobody: SocketAddr) -> ChannelFile {
    (name.to_owned(), source(name) + &format!("[destination.dead]\ntype = \"mllp\"\naddress = \"{nobody}\"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_without_mistakes() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let files = [filtering("a"), whole("b", &[address, address]), whole_file("c"), dead("d", address)];
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in &files {
            std::fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        }
        let set = crate::channel::load_folder(folder.path()).unwrap();
        let mistakes: Vec<String> = set.diagnostics.iter().map(ToString::to_string).collect();
        assert_eq!((set.channels.len(), mistakes), (4, Vec::<String>::new()));
    }
}
