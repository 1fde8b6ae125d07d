//! HL7 as XML in the form that Mirth users know: `<HL7Message><PID><PID.5><PID.5.1>Nagy</PID.5.1></PID.5></PID></HL7Message>`.
//!
//! It is flat by segments. The groups of HL7's own XML encoding (`<ORU_R01.PATIENT_RESULT>`), and its names of components by
//! their data types (`<XPN.1>`), follow from the tables of each version of the standard, which are not here. Reading takes any
//! outermost element, and looks for segments also within groups; of component names only the number at the end counts.

use super::failed;
use super::tree::{Field, Segment, is_name, value};
use crate::message::xml::escaped;
use crate::message::{Element, Xml};
use crate::transformer::StepError;

/// Fields and components, at most: a number may stand for so many empty ones before it.
const MAX_NUMBER: usize = 10_000;

pub(super) fn of(segments: &[Segment]) -> Result<Xml, StepError> {
    let mut text = "<HL7Message>".to_owned();
    for Segment { name, fields } in segments {
        text.push_str(&format!("<{name}>"));
        for (number, field) in (1..).zip(fields) {
            let tag = format!("{name}.{number}");
            let is_fixed = name == "MSH" && number <= 2;
            for repetition in field {
                match repetition.as_slice() {
                    [component] if is_fixed => element(&mut text, &tag, component.first().map_or("", String::as_str)),
                    [component] if component.len() == 1 && component[0].is_empty() => {
                        text.push_str(&format!("<{tag}/>"))
                    }
                    components => {
                        text.push_str(&format!("<{tag}>"));
                        (1..)
                            .zip(components)
                            .for_each(|(at, component)| of_component(&mut text, &format!("{tag}.{at}"), component));
                        text.push_str(&format!("</{tag}>"));
                    }
                }
            }
        }
        text.push_str(&format!("</{name}>"));
    }
    text.push_str("</HL7Message>");
    Xml::parse(&text).map_err(|_| failed("it holds a control character that XML does not have"))
}

fn of_component(text: &mut String, tag: &str, component: &[String]) {
    match component {
        [value] => element(text, tag, value),
        values => {
            text.push_str(&format!("<{tag}>"));
            (1..).zip(values).for_each(|(at, value)| element(text, &format!("{tag}.{at}"), value));
            text.push_str(&format!("</{tag}>"));
        }
    }
}

fn element(text: &mut String, tag: &str, value: &str) {
    if value.is_empty() {
        text.push_str(&format!("<{tag}/>"));
    } else {
        text.push_str(&format!("<{tag}>{}</{tag}>", escaped(value)));
    }
}

pub(super) fn to_tree(xml: &Xml) -> Result<Vec<Segment>, StepError> {
    let mut segments = Vec::new();
    collect(xml.root(), &mut segments)?;
    Ok(segments)
}

/// The segments in an element, in order; one that is no segment is a group of them.
fn collect(element: &Element, segments: &mut Vec<Segment>) -> Result<(), StepError> {
    for child in element.elements() {
        if !is_name(&child.name) {
            collect(child, segments)?;
            continue;
        }
        let place = format!("{} (segment {})", child.name, segments.len() + 1);
        let mut fields: Vec<Field> = Vec::new();
        let mut seen: Vec<bool> = Vec::new();
        for part in child.elements() {
            let number = number(part, &place)?;
            if fields.len() < number {
                fields.resize(number, value(""));
                seen.resize(number, false);
            }
            let is_fixed = child.name == "MSH" && number <= 2;
            let repetition = if is_fixed { vec![vec![part.text()]] } else { to_repetition(part, &place)? };
            // The element of a field that comes again is its next repetition.
            if std::mem::replace(&mut seen[number - 1], true) {
                fields[number - 1].push(repetition);
            } else {
                fields[number - 1] = vec![repetition];
            }
        }
        segments.push(Segment { name: child.name.clone(), fields });
    }
    Ok(())
}

fn to_repetition(element: &Element, place: &str) -> Result<Vec<Vec<String>>, StepError> {
    if element.elements().next().is_none() {
        return Ok(vec![vec![element.text()]]);
    }
    let mut components: Vec<Vec<String>> = Vec::new();
    for part in element.elements() {
        let number = number(part, place)?;
        if components.len() < number {
            components.resize(number, vec![String::new()]);
        }
        components[number - 1] = to_component(part, place)?;
    }
    Ok(components)
}

fn to_component(element: &Element, place: &str) -> Result<Vec<String>, StepError> {
    if element.elements().next().is_none() {
        return Ok(vec![element.text()]);
    }
    let mut values: Vec<String> = Vec::new();
    for part in element.elements() {
        let number = number(part, place)?;
        if part.elements().next().is_some() {
            return Err(failed(format!("{place}: it goes deeper than HL7 does")));
        }
        if values.len() < number {
            values.resize(number, String::new());
        }
        values[number - 1] = part.text();
    }
    Ok(values)
}

/// The number at the end of an element's name: `PID.5.1`, `XPN.1`.
fn number(element: &Element, place: &str) -> Result<usize, StepError> {
    let number = element.name.rsplit_once('.').and_then(|(_, number)| number.parse::<usize>().ok());
    number
        .filter(|number| (1..=MAX_NUMBER).contains(number))
        .ok_or_else(|| failed(format!("{place}: an element in it has no number at the end of its name, as in PID.5.1")))
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;
    use crate::hl7;

    fn there(text: &str) -> Result<Xml, String> {
        let message = hl7::Message::parse(text.to_owned(), &hl7::Limits::default()).expect("HL7");
        tree::of(&message).and_then(|segments| of(&segments)).map_err(|error| error.to_string())
    }

    fn back(xml: &Xml) -> Result<String, String> {
        let made = to_tree(xml).and_then(|segments| tree::to_hl7(&segments));
        made.map(|message| String::from_utf8(message.to_bytes().to_vec()).expect("UTF-8"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn there_and_back() {
        let text = "MSH|^~\\&|LAB||||||ORU^R01|1|P|2.5\rPID|1||A1^^^H&1.2&ISO~B2~||Nagy^\\T\\ <x>^||\"\"|\rNK1\r";
        let xml = there(text).expect("XML");
        let pid = "<PID><PID.1><PID.1.1>1</PID.1.1></PID.1><PID.2/><PID.3><PID.3.1>A1</PID.3.1><PID.3.2/><PID.3.3/><PID.3.4>\
            <PID.3.4.1>H</PID.3.4.1><PID.3.4.2>1.2</PID.3.4.2><PID.3.4.3>ISO</PID.3.4.3></PID.3.4></PID.3><PID.3><PID.3.1>B2</PID.3.1>\
            </PID.3><PID.3/><PID.4/><PID.5><PID.5.1>Nagy</PID.5.1><PID.5.2>&amp; &lt;x&gt;</PID.5.2><PID.5.3/></PID.5><PID.6/>";
        assert!(xml.text().contains(pid), "{}", xml.text());
        assert!(
            xml.text()
                .starts_with("<HL7Message><MSH><MSH.1>|</MSH.1><MSH.2>^~\\&amp;</MSH.2><MSH.3><MSH.3.1>LAB</MSH.3.1>")
        );
        assert_eq!(back(&xml).expect("HL7"), text);
        let error = there("MSH|^~\\&|A\rPID|\\X02\\\r").expect_err("a control character");
        assert!(error.contains("a control character that XML does not have"), "{error}");
        assert!(there("MSH|^~\\&|A\r odd|1\r").expect_err("a name").contains("segment 2 has no name"));
    }

    #[test]
    fn groups_and_names_by_data_types_are_read() {
        let xml = "<ORU_R01 xmlns='urn:hl7-org:v2xml'><MSH><MSH.1>|</MSH.1><MSH.2>^~\\&amp;</MSH.2><MSH.9><MSG.1>ORU</MSG.1></MSH.9></MSH>\
            <ORU_R01.PATIENT_RESULT><ORU_R01.PATIENT><PID><PID.5><XPN.1><FN.1>Nagy</FN.1></XPN.1><XPN.2>Ilona</XPN.2></PID.5></PID></ORU_R01.PATIENT>\
            </ORU_R01.PATIENT_RESULT></ORU_R01>";
        let text = back(&Xml::parse(xml).expect("XML")).expect("HL7");
        assert_eq!(text, "MSH|^~\\&|||||||ORU\rPID|||||Nagy^Ilona\r");
        for (xml, problem) in [
            ("<a><PID><PID.1/></PID></a>", "the first segment is not MSH"),
            ("<a><MSH><secret/></MSH></a>", "MSH (segment 1): an element in it has no number"),
            ("<a><MSH><MSH.99999/></MSH></a>", "has no number"),
            ("<a><MSH><MSH.3><a.1><b.1><c.1/></b.1></a.1></MSH.3></MSH></a>", "goes deeper than HL7"),
        ] {
            let error = back(&Xml::parse(xml).expect("XML")).expect_err(xml);
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }

    /// What Mirth itself makes of its own samples, both ways.
    #[test]
    fn as_mirth_writes_it() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/golden-mirth-er7-xml");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let Some((input, output)) = read("test-hl7-repetitions-input.txt").zip(read("test-hl7-repetitions-output.xml"))
        else {
            // Without the corpora there is nothing to compare with.
            return;
        };
        let compact = |text: &str| text.lines().map(str::trim).collect::<String>();
        assert_eq!(there(&input).expect("XML").text(), compact(&output));
        for name in ["test-hl7-missing-components", "test-hl7-missing-subcomponents", "test-hl7-missing-fields"] {
            let (Some(input), Some(output)) = (read(&format!("{name}-input.xml")), read(&format!("{name}-output.txt")))
            else {
                panic!("{name} is not there");
            };
            let lines = |text: &str| {
                text.split(['\r', '\n']).filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
            };
            // Mirth keeps white space between elements apart from values, and so do we: what is left is theirs.
            let ours = back(&Xml::parse(&input).expect("XML")).expect("HL7");
            let trim =
                |lines: Vec<String>| lines.iter().map(|line| line.trim_end_matches('|').to_owned()).collect::<Vec<_>>();
            assert_eq!(trim(lines(&ours)), trim(lines(&output)), "{name}");
        }
    }
}
