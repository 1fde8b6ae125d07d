//! XML as expressions and steps see it: a tree of elements with local names.
//!
//! Names are compared without their namespace prefixes: what a sender calls `lab:order` is `order` here. Document type
//! declarations are refused: they define entities, and entities are how a small file becomes a large one, or another file.

use std::fmt;
use std::ops::Range;

use super::UnreadableBody;

/// Elements within elements, at most.
const MAX_DEPTH: usize = 200;
/// Elements, texts and attributes, at most.
const MAX_NODES: u32 = 1_000_000;
/// Namespaces that hold at one place, at most.
const MAX_NAMESPACES: usize = 256;

/// A document that was read. `Debug` shows its size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Xml {
    /// The document as text, declared as UTF-8 where it declares an encoding.
    text: String,
    root: Element,
    /// What elements declare; only those that declare something have one.
    scopes: Vec<Scope>,
}

/// The namespaces that one element declares.
#[derive(Clone, PartialEq, Eq)]
struct Scope {
    /// The next one further out.
    outer: Option<usize>,
    /// Prefixes and what they stand for, in order.
    declares: Vec<(Option<String>, String)>,
}

/// An element.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    /// Its local name.
    pub name: String,
    /// Its attributes by their local names, in order.
    pub attributes: Vec<(String, String)>,
    /// What is in it, in order. Comments and processing instructions are left out.
    pub children: Vec<Node>,
    /// Where it stands in the document's text.
    range: Range<usize>,
    /// The innermost namespace declarations around it.
    outer: Option<usize>,
}

/// What is in an element.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, unescaped; also that of CDATA sections.
    Text(String),
}

impl fmt::Debug for Xml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xml({} bytes)", self.text.len())
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Element({})", self.name)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Element(element) => element.fmt(f),
            Node::Text(_) => f.write_str("Text"),
        }
    }
}

impl Xml {
    /// Reads a document.
    ///
    /// # Errors
    /// [`UnreadableBody::Xml`], with the line and column and never with content.
    pub fn parse(text: &str) -> Result<Xml, UnreadableBody> {
        let text = declared_as(text.strip_prefix('\u{feff}').unwrap_or(text), "UTF-8");
        // First of all: reading takes time for each element with each namespace.
        check_namespaces(&text)?;
        let options = roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(&text, options).map_err(|error| {
            let at = error.pos();
            let problem = match error {
                roxmltree::Error::DtdDetected => "a document type declaration is not read",
                roxmltree::Error::NodesLimitReached => "it has too many elements",
                _ => "it is not well-formed",
            };
            UnreadableBody::Xml { line: at.row, column: at.col, problem }
        })?;
        let mut scopes = Vec::new();
        let root = element(document.root_element(), 0, None, &mut scopes).ok_or(UnreadableBody::Xml {
            line: 1,
            column: 1,
            problem: "elements stand within elements more than 200 deep",
        })?;
        Ok(Xml { text, root, scopes })
    }

    /// The document's outermost element.
    pub fn root(&self) -> &Element {
        &self.root
    }

    /// The document as text; where it declares an encoding, that is UTF-8.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The document as text that declares this encoding.
    pub fn text_declared_as(&self, encoding: &str) -> String {
        if self.text.starts_with("<?xml") {
            return declared_as(&self.text, encoding);
        }
        format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>\n{}", self.text)
    }

    /// The elements that a path leads to: `/order/item` each `item` within the outermost element `order`; `/order/item[2]` the
    /// second one of each `order`. A last `@name` is left to [`Xml::values`].
    pub fn elements(&self, path: &XmlPath) -> Vec<&Element> {
        let Some((first, rest)) = path.steps.split_first() else { return Vec::new() };
        let mut found: Vec<&Element> = Vec::new();
        if first.suits(&self.root.name) && first.number.is_none_or(|number| number == 1) {
            found.push(&self.root);
        }
        for step in rest {
            found = found
                .into_iter()
                .flat_map(|element| {
                    let named = element.elements().filter(|child| step.suits(&child.name));
                    let numbered: Box<dyn Iterator<Item = &Element>> = match step.number {
                        Some(number) => Box::new(named.skip(number - 1).take(1)),
                        None => Box::new(named),
                    };
                    numbered
                })
                .collect();
        }
        found
    }

    /// The texts at a path: of each element that it leads to, or of their attribute.
    pub fn values(&self, path: &XmlPath) -> Vec<String> {
        let elements = self.elements(path).into_iter();
        match &path.attribute {
            None => elements.map(Element::text).collect(),
            Some(name) => elements.filter_map(|element| element.attribute(name)).map(str::to_owned).collect(),
        }
    }

    /// An element as a document of its own.
    pub fn part(&self, element: &Element) -> Result<Xml, UnreadableBody> {
        let source = &self.text[element.range.clone()];
        // The name ends the `<` and its letters; declarations from further out go right behind it.
        let end =
            source[1..].find(|c: char| c.is_whitespace() || matches!(c, '/' | '>')).map_or(source.len(), |at| at + 1);
        Xml::parse(&format!("{}{}{}", &source[..end], self.inherited(element, source), &source[end..]))
    }

    /// The namespaces that hold for an element because one around it declares them, ready to be written into its start tag.
    fn inherited(&self, element: &Element, source: &str) -> String {
        // Declared again further in: that declaration holds.
        let mut known = declared(start_tag(source));
        let mut declarations = String::new();
        let mut scope = element.outer;
        while let Some(found) = scope.and_then(|at| self.scopes.get(at)) {
            for (prefix, uri) in &found.declares {
                let prefix = prefix.as_deref();
                if known.contains(&prefix) {
                    continue;
                }
                known.push(prefix);
                let name = prefix.map_or(String::new(), |prefix| format!(":{prefix}"));
                declarations.push_str(&format!(" xmlns{name}=\"{}\"", escaped(uri)));
            }
            scope = found.outer;
        }
        declarations
    }
}

impl Element {
    /// The elements in it.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|child| match child {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// All text in it, in order, at any depth.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.add_text(&mut text);
        text
    }

    fn add_text(&self, text: &mut String) {
        for child in &self.children {
            match child {
                Node::Element(element) => element.add_text(text),
                Node::Text(more) => text.push_str(more),
            }
        }
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn element(
    node: roxmltree::Node<'_, '_>,
    depth: usize,
    outer: Option<usize>,
    scopes: &mut Vec<Scope>,
) -> Option<Element> {
    if depth >= MAX_DEPTH {
        return None;
    }
    let mut inner = outer;
    let names = declared(start_tag(&node.document().input_text()[node.range()]));
    if !names.is_empty() {
        let uri = |name: Option<&str>| node.lookup_namespace_uri(name).unwrap_or_default().to_owned();
        let declares = names.into_iter().map(|name| (name.map(str::to_owned), uri(name))).collect();
        inner = Some(scopes.len());
        scopes.push(Scope { outer, declares });
    }
    let mut children = Vec::new();
    for child in node.children() {
        if child.is_element() {
            children.push(Node::Element(element(child, depth + 1, inner, scopes)?));
        } else if let (true, Some(text)) = (child.is_text(), child.text()) {
            match children.last_mut() {
                Some(Node::Text(before)) => before.push_str(text),
                _ => children.push(Node::Text(text.to_owned())),
            }
        }
    }
    let attributes = node.attributes().map(|attribute| (attribute.name().to_owned(), attribute.value().to_owned()));
    Some(Element {
        name: node.tag_name().name().to_owned(),
        attributes: attributes.collect(),
        children,
        range: node.range(),
        outer,
    })
}

/// Refuses a document with more namespaces at one place than are read. What is not well-formed is left to the reader.
fn check_namespaces(text: &str) -> Result<(), UnreadableBody> {
    const NO_TAGS: [(&str, &str); 3] = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")];
    let mut scope: Vec<Option<&str>> = Vec::new();
    // How many held outside of each element that is open.
    let mut open: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('<') {
        at += found;
        let rest = &text[at..];
        if let Some((start, end)) = NO_TAGS.iter().find(|(start, _)| rest.starts_with(*start)) {
            let Some(length) = rest[start.len()..].find(*end) else { return Ok(()) };
            at += start.len() + length + end.len();
            continue;
        }
        let tag = start_tag(rest);
        if tag.starts_with("</") {
            scope.truncate(open.pop().unwrap_or(0));
            at += tag.len();
            continue;
        }
        let before = scope.len();
        for prefix in declared(tag) {
            if scope.contains(&prefix) {
                continue;
            }
            if scope.len() == MAX_NAMESPACES {
                return Err(too_many_namespaces(&text[..at]));
            }
            scope.push(prefix);
        }
        if tag.ends_with('/') {
            scope.truncate(before);
        } else {
            open.push(before);
        }
        at += tag.len();
    }
    Ok(())
}

fn too_many_namespaces(before: &str) -> UnreadableBody {
    let number = |count: usize| u32::try_from(count + 1).unwrap_or(u32::MAX);
    UnreadableBody::Xml {
        line: number(before.matches('\n').count()),
        column: number(before.chars().rev().take_while(|c| *c != '\n').count()),
        problem: "it has more than 256 namespaces",
    }
}

/// The prefixes that a start tag declares, in order; none is that of names without a prefix.
fn declared(tag: &str) -> Vec<Option<&str>> {
    let mut names = Vec::new();
    if !tag.contains("xmlns") {
        return names;
    }
    let mut rest = tag;
    while let Some((before, quote, value)) = split_at_quote(rest) {
        let name = before.trim_end().strip_suffix('=').unwrap_or_default().trim_end();
        let name = name.rsplit(char::is_whitespace).next().unwrap_or_default();
        if name == "xmlns" {
            names.push(None);
        } else if let Some(prefix) = name.strip_prefix("xmlns:").filter(|prefix| *prefix != "xml") {
            names.push(Some(prefix));
        }
        let Some((_, behind)) = value.split_once(quote) else { break };
        rest = behind;
    }
    names
}

/// What stands before the first quote, the quote, and what follows it.
fn split_at_quote(text: &str) -> Option<(&str, char, &str)> {
    let (at, quote) = text.char_indices().find(|(_, c)| matches!(c, '"' | '\''))?;
    Some((&text[..at], quote, &text[at + 1..]))
}

/// The start tag of an element, up to its `>` outside of quotes.
fn start_tag(source: &str) -> &str {
    let mut quote = None;
    for (at, byte) in source.bytes().enumerate() {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            (None, b'>') => return &source[..at],
            _ => {}
        }
    }
    source
}

/// Text as it stands within XML, in elements and attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
    out
}

/// The encoding that a document's declaration names.
pub(super) fn declared_encoding(raw: &[u8]) -> Option<&str> {
    let start = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
    let end = memchr::memmem::find(&start[..start.len().min(512)], b"?>")?;
    let declaration = std::str::from_utf8(&start[..end]).ok()?;
    encoding_range(declaration).map(|range| &declaration[range])
}

/// Where a declaration names the encoding.
fn encoding_range(declaration: &str) -> Option<Range<usize>> {
    if !declaration.starts_with("<?xml") {
        return None;
    }
    let at = declaration.find("encoding")? + "encoding".len();
    let rest = declaration[at..].trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let start = declaration.len() - rest.len() + 1;
    let length = declaration[start..].find(quote)?;
    Some(start..start + length)
}

/// The document with another encoding in its declaration, where it names one.
fn declared_as(text: &str, encoding: &str) -> String {
    let end = text.find("?>").unwrap_or(0);
    match encoding_range(&text[..end]) {
        Some(range) => format!("{}{encoding}{}", &text[..range.start], &text[range.end..]),
        None => text.to_owned(),
    }
}

/// A place in XML: `/order/patient/@id`, `/order/item[2]/code`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XmlPath {
    steps: Vec<Step>,
    attribute: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    name: String,
    number: Option<usize>,
}

impl Step {
    fn suits(&self, name: &str) -> bool {
        self.name == "*" || self.name == name
    }
}

impl XmlPath {
    /// Whether it leads to an attribute.
    pub fn is_attribute(&self) -> bool {
        self.attribute.is_some()
    }
}

impl std::str::FromStr for XmlPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<XmlPath, &'static str> {
        const HELP: &str = "a path into XML is written /order/item[2]/code or /order/patient/@id";
        let mut steps = Vec::new();
        let mut attribute = None;
        for part in text.strip_prefix('/').ok_or(HELP)?.split('/') {
            if attribute.is_some() {
                return Err(HELP);
            }
            if let Some(name) = part.strip_prefix('@') {
                attribute = Some(local(name).to_owned()).filter(|name| !name.is_empty());
                if attribute.is_none() {
                    return Err(HELP);
                }
                continue;
            }
            let (name, number) = match part.split_once('[') {
                Some((name, number)) => {
                    let number = number.strip_suffix(']').and_then(|number| number.parse().ok());
                    (name, Some(number.filter(|number| *number > 0).ok_or(HELP)?))
                }
                None => (part, None),
            };
            if name.is_empty() {
                return Err(HELP);
            }
            steps.push(Step { name: local(name).to_owned(), number });
        }
        if steps.is_empty() { Err(HELP) } else { Ok(XmlPath { steps, attribute }) }
    }
}

/// A name without its prefix.
fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "<?xml version='1.0' encoding='ISO-8859-1'?>\n<l:order xmlns:l=\"urn:a&amp;b\" xmlns='urn:d'>\
        <patient id='7' l:kind=\"x\">Nagy &amp; <b>fia</b></patient>\
        <item><code>GLU</code></item><item><code><![CDATA[NA<1]]></code></item><l:item/></l:order>";

    fn values(path: &str) -> Vec<String> {
        Xml::parse(ORDER).expect("XML").values(&path.parse().expect("a path"))
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/order/patient/@id", vec!["7"]),
            ("/l:order/patient/@kind", vec!["x"]),
            ("/order/patient", vec!["Nagy & fia"]),
            ("/order/item/code", vec!["GLU", "NA<1"]),
            ("/order/item[2]/code", vec!["NA<1"]),
            ("/order/*/code", vec!["GLU", "NA<1"]),
            ("/order[1]/item[3]", vec![""]),
            ("/order[2]/item", vec![]),
            ("/order/item[4]", vec![]),
            ("/order/patient/@none", vec![]),
            ("/other", vec![]),
        ] {
            assert_eq!(values(path), expected, "{path}");
        }
        for wrong in ["", "order", "/", "//a", "/a[0]", "/a[x]", "/a[1", "/@id", "/a/@", "/a/@id/b"] {
            assert!(wrong.parse::<XmlPath>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_element_is_a_document_of_its_own() {
        let xml = Xml::parse(ORDER).expect("XML");
        let parts: Vec<Xml> = xml
            .elements(&"/order/item".parse().expect("a path"))
            .into_iter()
            .map(|item| xml.part(item).expect("a document"))
            .collect();
        assert_eq!(parts[0].text(), "<item xmlns:l=\"urn:a&amp;b\" xmlns=\"urn:d\"><code>GLU</code></item>");
        assert!(parts[2].text().starts_with("<l:item xmlns"), "{}", parts[2].text());
        let own = Xml::parse("<a xmlns='x' xmlns:p='q'><b xmlns='y' t='xmlns:p=\"r\"'><p:c/></b></a>").expect("XML");
        let part = own.part(own.elements(&"/a/b".parse().expect("a path"))[0]).expect("a document");
        assert_eq!(part.text(), "<b xmlns:p=\"q\" xmlns='y' t='xmlns:p=\"r\"'><p:c/></b>");
        let deep = "<a xmlns:p='q' xmlns:o='1'><b xmlns:o='2'><c t=' xmlns:p=\"\"'><p:d/></c></b><b xmlns:p='r'/></a>";
        let deep = Xml::parse(deep).expect("XML");
        let part = deep.part(deep.elements(&"/a/b/c".parse().expect("a path"))[0]).expect("a document");
        assert_eq!(part.text(), "<c xmlns:o=\"2\" xmlns:p=\"q\" t=' xmlns:p=\"\"'><p:d/></c>");
        // What a part is made from is known of the part as well.
        let part = part.part(part.elements(&"/c/d".parse().expect("a path"))[0]).expect("a document");
        assert_eq!(part.text(), "<p:d xmlns:o=\"2\" xmlns:p=\"q\"/>");
    }

    #[test]
    fn namespaces_are_limited() {
        let some = |numbers: std::ops::Range<usize>| -> String {
            numbers.map(|number| format!(" xmlns:n{number}='urn:{number}'")).collect()
        };
        for refused in [
            format!("<a{}/>", some(0..300)),
            format!("<a{}>\n<!-- </a> --><b/><b{}/></a>", some(0..200), some(200..257)),
        ] {
            let error = Xml::parse(&refused).expect_err("too many").to_string();
            assert!(error.contains("more than 256 namespaces") && !error.contains("urn"), "{error}");
        }
        for taken in [
            format!("<a{}><b{}/></a>", some(0..256), some(0..256)),
            format!("<a><b{}/><b{}></b><b{}/></a>", some(0..200), some(200..400), some(400..600)),
            format!("<a><![CDATA[<b{}>]]></a>", some(0..300)),
        ] {
            assert!(Xml::parse(&taken).is_ok(), "{taken}");
        }
    }

    #[test]
    fn what_is_not_read() {
        let deep = format!("{}{}", "<a>".repeat(201), "</a>".repeat(201));
        for (text, problem) in [
            ("<a><b></a>", "line 1, column 7: it is not well-formed"),
            ("", "not well-formed"),
            ("<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", "a document type declaration is not read"),
            ("<a>&secret;</a>", "not well-formed"),
            (&deep, "more than 200 deep"),
        ] {
            let error = Xml::parse(text).expect_err(text).to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
        assert!(Xml::parse(&format!("{}{}", "<a>".repeat(200), "</a>".repeat(200))).is_ok());
    }

    #[test]
    fn the_encoding_is_what_the_text_is_written_in() {
        assert_eq!(declared_encoding(ORDER.as_bytes()), Some("ISO-8859-1"));
        assert_eq!(declared_encoding(b"<a encoding='x'/>"), None);
        let xml = Xml::parse(ORDER).expect("XML");
        assert!(xml.text().starts_with("<?xml version='1.0' encoding='UTF-8'?>"));
        assert!(xml.text_declared_as("windows-1252").starts_with("<?xml version='1.0' encoding='windows-1252'?>"));
        let plain = Xml::parse("<a/>").expect("XML");
        assert_eq!(plain.text(), "<a/>");
        assert_eq!(plain.text_declared_as("ISO-8859-2"), "<?xml version=\"1.0\" encoding=\"ISO-8859-2\"?>\n<a/>");
    }
}
