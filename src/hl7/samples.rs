//! Messages made up for the tests.

/// An ADT with repetitions, components, subcomponents, escapes, a Z segment and odd lines.
pub(super) const ADT: &str = "MSH|^~\\&|LAB|NORTH|EHR|SOUTH|20240131120000||ADT^A01^ADT_A01|MSG1|P|2.5.1\rEVN|A01|20240131\r\
PID|1||100^^^HOSP&1.2.3&ISO^MR~200^^^NAT^SS||Test^Anna^M~Probe^Anna||19700101|F|||1 \\T\\ 2 Road^^Town||555\r\
\rNK1\r ODD|x\rZPI|a^b|\\H\\bold\\N\\\rOBX|1|TX|T1||first||\"\"\rOBX|2|TX|T2||second\r";

/// A message that must be fine.
pub(super) fn parse(text: &str) -> super::Message {
    super::Message::parse(text.to_owned(), &super::Limits::default()).unwrap()
}
