//! Structured fields (RFC 9651) as far as signatures need them: dictionaries of inner lists, byte sequences and
//! parameters, of strings, integers, tokens and booleans.

use super::recipe::Encoding;

/// A list, or a list's parameters, has at most so many members.
const MEMBERS_MAX: usize = 128;

/// A dictionary's member.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Member<'a> {
    InnerList(InnerList<'a>),
    Item(Bare),
}

/// `("a" "b";x=1);created=1`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InnerList<'a> {
    /// As it stands in the header, with its parameters.
    pub(crate) text: &'a str,
    /// Strings with their parameters.
    pub(crate) items: Vec<(String, Vec<(String, Bare)>)>,
    /// The list's own parameters.
    pub(crate) parameters: Vec<(String, Bare)>,
}

/// A value without parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bare {
    String(String),
    Integer(i64),
    Bytes(Vec<u8>),
    /// A token, a boolean or a decimal: understood, but of no use here.
    Other,
}

impl InnerList<'_> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&Bare> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }
}

/// `None` if the text is no dictionary, or one with what is not known here.
pub(crate) fn dictionary(text: &str) -> Option<Vec<(String, Member<'_>)>> {
    let mut reader = Reader { rest: text.trim_matches(' ') };
    let mut members = Vec::new();
    while !reader.rest.is_empty() {
        let name = reader.key()?;
        let member = if reader.take('=') {
            if reader.rest.starts_with('(') {
                Member::InnerList(reader.inner_list()?)
            } else {
                let item = reader.bare()?;
                reader.parameters()?;
                Member::Item(item)
            }
        } else {
            reader.parameters()?;
            Member::Item(Bare::Other)
        };
        members.push((name, member));
        reader.space();
        if reader.rest.is_empty() {
            break;
        }
        if !reader.take(',') || members.len() > MEMBERS_MAX {
            return None;
        }
        reader.space();
        if reader.rest.is_empty() {
            return None;
        }
    }
    Some(members)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, wanted: char) -> bool {
        let after = self.rest.strip_prefix(wanted);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> &'a str {
        let end = self.rest.bytes().position(|byte| !is_part(byte)).unwrap_or(self.rest.len());
        let (part, rest) = self.rest.split_at(end);
        self.rest = rest;
        part
    }

    fn key(&mut self) -> Option<String> {
        let begins = self.rest.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'*');
        let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b);
        begins.then(|| self.take_while(is_part).to_owned())
    }

    fn inner_list(&mut self) -> Option<InnerList<'a>> {
        let whole = self.rest;
        if !self.take('(') {
            return None;
        }
        let mut items = Vec::new();
        loop {
            self.space();
            if self.take(')') {
                break;
            }
            let Bare::String(name) = self.bare()? else { return None };
            items.push((name, self.parameters()?));
            if items.len() > MEMBERS_MAX || !(self.rest.starts_with(' ') || self.rest.starts_with(')')) {
                return None;
            }
        }
        let parameters = self.parameters()?;
        Some(InnerList { text: &whole[..whole.len() - self.rest.len()], items, parameters })
    }

    fn parameters(&mut self) -> Option<Vec<(String, Bare)>> {
        let mut parameters: Vec<(String, Bare)> = Vec::new();
        while self.take(';') {
            self.space();
            let name = self.key()?;
            let value = if self.take('=') { self.bare()? } else { Bare::Other };
            if parameters.len() > MEMBERS_MAX || parameters.iter().any(|(other, _)| *other == name) {
                return None;
            }
            parameters.push((name, value));
        }
        Some(parameters)
    }

    fn bare(&mut self) -> Option<Bare> {
        match self.rest.bytes().next()? {
            b'"' => self.string().map(Bare::String),
            b':' => {
                self.take(':');
                let (text, rest) = self.rest.split_once(':')?;
                self.rest = rest;
                Encoding::Base64.decode(text).map(Bare::Bytes)
            }
            b'?' => {
                self.take('?');
                (self.take('0') || self.take('1')).then_some(Bare::Other)
            }
            b'-' | b'0'..=b'9' => {
                let text = self.take_while(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'.');
                if text.contains('.') {
                    return Some(Bare::Other);
                }
                (text.len() <= 16).then(|| text.parse().ok().map(Bare::Integer))?
            }
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
                self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Some(Bare::Other)
            }
            _ => None,
        }
    }

    /// Without escapes: a component's name has none, and what needs one is not signed by anyone.
    fn string(&mut self) -> Option<String> {
        let (text, rest) = self.rest.strip_prefix('"')?.split_once('"')?;
        self.rest = rest;
        text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\').then(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_read() {
        let text = r#"sig1=("date" "@query-param";name="a");created=16;keyid="k", b=:AQI=:;x, c, d=tok/en, e=?1"#;
        let members = dictionary(text).expect("a dictionary");
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sig1", "b", "c", "d", "e"]);
        let Member::InnerList(list) = &members[0].1 else { panic!("an inner list") };
        assert_eq!(list.text, r#"("date" "@query-param";name="a");created=16;keyid="k""#);
        assert_eq!(list.items[1], ("@query-param".into(), vec![("name".into(), Bare::String("a".into()))]));
        assert_eq!(list.parameter("created"), Some(&Bare::Integer(16)));
        assert_eq!(members[1].1, Member::Item(Bare::Bytes(vec![1, 2])));
        assert_eq!(dictionary(""), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_dictionary_is_none() {
        for text in [
            "A=1",
            "a=",
            "a=(",
            "a=(x)",
            "a=(\"x\"",
            "a=(\"x\"\"y\")",
            "a=1,",
            "a=1 b=2",
            "a=:x",
            "a=\"x",
            "a=\"\\\"\"",
            "a=1;x=1;x=2",
            "a=12345678901234567890",
            "é=1",
            "a=()x",
        ] {
            assert_eq!(dictionary(text), None, "{text}");
        }
    }
}
